"""A token for the model hub goes from the resource to the pod as a reference, never as a value."""

from octavo_api.resource import parse
from octavo_operator.desired import desired
from octavo_operator.pods import PodOptions, pod
from octavo_operator.types import Create


def resource(**model):
    spec = {"model": {"source": "hf://org/name"} | model}
    return parse({"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": "one", "uid": "u"}, "spec": spec})


def environment(**model) -> dict[str, dict]:
    create = Create(replica="one-r-0", ordinal=0, revision="r", attempt=0, reason="")
    (container,) = pod(resource(**model), create, PodOptions(image="engine"))["spec"]["containers"]
    return {entry["name"]: entry for entry in container["env"]}


def test_the_pod_gets_the_token_from_the_secret() -> None:
    assert environment(secretRef={"name": "hub"})["HF_TOKEN"] == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    assert environment(secretRef={"name": "hub", "key": "mine"})["HF_TOKEN"]["valueFrom"]["secretKeyRef"]["key"] == "mine"
    assert "HF_TOKEN" not in environment()


def test_another_secret_is_another_revision() -> None:
    plain, hub, other = (desired(resource(**model)).revision for model in ({}, {"secretRef": {"name": "hub"}}, {"secretRef": {"name": "other"}}))
    assert len({plain, hub, other}) == 3
