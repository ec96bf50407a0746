"""`helm uninstall` leaves the CRDs and the LLMDeployments, whose pods go on; with crds.keep=false it leaves nothing."""

from collections.abc import Iterator

import httpx
import pytest

UNTOLD = {"events", "events.events.k8s.io", "componentstatuses", "namespaces", "nodes", "csinodes.storage.k8s.io", "persistentvolumes"}
OF_EVERY_NAMESPACE = {"configmap/kube-root-ca.crt", "serviceaccount/default"}


def ours(kubectl) -> set[str]:
    """Every object in the release's namespace, and every object outside of namespaces that Kubernetes itself does not bring."""

    def names(namespaced: str) -> set[str]:
        kinds = set(kubectl("api-resources", f"--namespaced={namespaced}", "--verbs=list", "-o", "name").split())
        return kubectl.names(",".join(sorted(kinds - UNTOLD)))

    return names("true") - OF_EVERY_NAMESPACE | {name for name in names("false") if "octavo" in name}


@pytest.fixture
def reinstalled(release) -> Iterator[None]:
    yield
    release.install()


@pytest.mark.usefixtures("reinstalled")
def test_uninstall(release, deploy, wait) -> None:
    deployment = deploy("kept")
    deployment.wait_ready()
    (pod,) = deployment.pods()
    release.uninstall()
    left = {"customresourcedefinition.apiextensions.k8s.io/llmdeployments.octavo.dev", "apiservice.apiregistration.k8s.io/v1alpha1.octavo.dev"}
    wait(lambda: ours(release.kubectl) == left, 60, lambda: f"left behind: {ours(release.kubectl)}")

    (same,) = deployment.pods()
    assert same["metadata"]["uid"] == pod["metadata"]["uid"]
    answer = httpx.post(f"http://{pod['status']['podIP']}:8000/v1/completions", json={"model": "kept", "prompt": "Hello", "max_tokens": 4}, timeout=60)
    assert answer.status_code == 200, answer.text

    release.install()
    deployment.wait_ready()
    assert [pod["metadata"]["uid"] for pod in deployment.pods()] == [pod["metadata"]["uid"]], "the new operator takes over the pods that it finds"


@pytest.mark.usefixtures("reinstalled")
def test_uninstall_without_crds(release, kubectl, deploy, wait) -> None:
    release.install("crds.keep=false")
    deploy("dropped").wait_ready()
    release.uninstall()
    wait(lambda: not ours(release.kubectl), 60, lambda: f"left behind: {ours(release.kubectl)}")
    wait(lambda: not kubectl.names("pods"), 90, lambda: "the pods of a resource that is gone go on")
