"""What is rendered is what Kubernetes and our own commands understand: no unknown field, no unknown flag, nothing a
namespace under the restricted Pod Security Standard would refuse, and parts that find one another."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from octavo_gateway.verbs import gateway, settings_of
from octavo_operator.verbs import operator

SETS = sorted(path.stem for path in (Path(__file__).parent / "values").glob("*.yaml"))
OURS = {"CustomResourceDefinition", "PodMonitor"}
"""Kinds that the client has no model of that goes all the way down."""


@pytest.fixture(params=SETS)
def manifests(helm, request: pytest.FixtureRequest) -> list[dict]:
    return helm.render(request.param)


def unknown_fields(value: Any, kind: str, path: str) -> Iterator[str]:
    """Walks a manifest along the types of the official client."""
    if kind.startswith("list["):
        for number, inner in enumerate(value):
            yield from unknown_fields(inner, kind[5:-1], f"{path}[{number}]")
    elif kind.startswith("dict("):
        for key, inner in value.items():
            yield from unknown_fields(inner, kind[5:-1].partition(", ")[2], f"{path}[{key}]")
    elif kind in ("str", "int", "bool", "float"):
        if not isinstance(value, {"str": str, "int": int, "bool": bool, "float": float}[kind]):
            yield f"{path}: is {value!r}, not {kind}"
    elif hasattr(client, kind):
        model = getattr(client, kind)
        fields = {spelled: model.openapi_types[name] for name, spelled in model.attribute_map.items()}
        for key, inner in value.items():
            if key not in fields:
                yield f"{path}.{key}: {kind} has no such field"
            else:
                yield from unknown_fields(inner, fields[key], f"{path}.{key}")


def test_kubernetes_knows_every_field(manifests: list[dict]) -> None:
    for manifest in manifests:
        if manifest["kind"] not in OURS:
            assert list(unknown_fields(manifest, f"V1{manifest['kind']}", manifest["kind"])) == []


def test_everything_carries_the_labels(manifests: list[dict]) -> None:
    for manifest in manifests:
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "octavo"
        assert labels["app.kubernetes.io/instance"] == "octavo"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_namespaced_things_are_in_the_releases_namespace_or_in_a_watched_one(manifests: list[dict]) -> None:
    everywhere = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
    for manifest in manifests:
        namespace = manifest["metadata"].get("namespace")
        if manifest["kind"] in everywhere:
            assert namespace is None
        elif manifest["kind"] in ("Role", "RoleBinding"):
            assert namespace in ("team-a", "team-b")
        else:
            assert namespace == "octavo-system"


def deployments(manifests: list[dict]) -> Iterator[tuple[str, dict, dict]]:
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            yield manifest["metadata"]["labels"]["app.kubernetes.io/component"], manifest["spec"], container


def test_pods_pass_the_restricted_pod_security_standard(manifests: list[dict]) -> None:
    for _, spec, container in deployments(manifests):
        pod = spec["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert {key for volume in pod["volumes"] for key in volume} <= {"name", "emptyDir", "secret"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]


def test_commands_are_ones_that_our_programs_take(manifests: list[dict]) -> None:
    parsed = {}
    for part, _, container in deployments(manifests):
        verb = {"operator": operator, "gateway": gateway}[part]
        assert container["command"] == ["octavo"]
        assert container["args"][0] == verb.name
        parser = argparse.ArgumentParser(exit_on_error=False)
        verb.add_arguments(parser)
        parsed[part] = parser.parse_args(container["args"][1:])
    settings = settings_of(vars(parsed["gateway"]))
    assert settings.host == settings.internal_host == "0.0.0.0", "a kubelet and a Service reach it"
    assert parsed["gateway"].namespace == parsed["operator"].namespace
    assert bool(parsed["operator"].namespace) != parsed["operator"].all_namespaces


def test_probes_and_ports_are_those_that_the_commands_open(manifests: list[dict]) -> None:
    for part, _, container in deployments(manifests):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in (container["livenessProbe"], container["readinessProbe"]):
            assert probe["httpGet"]["port"] in ports
        flags = dict(argument.lstrip("-").partition("=")[::2] for argument in container["args"][1:])
        if part == "gateway":
            assert (int(flags["port"]), int(flags["internal-port"])) == (ports["http"], ports["internal"])
            assert container["readinessProbe"]["httpGet"]["path"] == "/health"
        else:
            assert flags["liveness"] == f"http://0.0.0.0:{ports['health']}{container['livenessProbe']['httpGet']['path']}"


def test_selectors_select_the_pods(manifests: list[dict]) -> None:
    pods = {part: spec["template"]["metadata"]["labels"] for part, spec, _ in deployments(manifests)}
    for part, spec, _ in deployments(manifests):
        assert spec["selector"]["matchLabels"].items() <= pods[part].items()
        others = [labels for other, labels in pods.items() if other != part]
        assert not any(spec["selector"]["matchLabels"].items() <= labels.items() for labels in others)
    for manifest in manifests:
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"].items() <= pods["gateway"].items()
        if manifest["kind"] == "PodDisruptionBudget":
            assert manifest["spec"]["selector"]["matchLabels"].items() <= pods["gateway"].items()


def test_one_operator_at_a_time(helm, one) -> None:
    spec = one(helm.render(), "Deployment", "octavo-operator")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_the_gateway_gets_its_drain_timeout(helm, one) -> None:
    def grace(*values: str) -> int:
        return one(helm.render(*values), "Deployment", "octavo-gateway")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert grace() == 5 + 300 + 15
    assert grace("gateway.settings.drainTimeout=60", "gateway.shutdownDelay=30") == 30 + 60 + 15
    assert grace("pinned") == 5 + 91 + 15, "90.5 seconds, rounded up"


def test_a_disruption_budget_only_where_it_does_not_block(helm) -> None:
    assert "PodDisruptionBudget" not in {manifest["kind"] for manifest in helm.render()}
    assert "PodDisruptionBudget" in {manifest["kind"] for manifest in helm.render("gateway.replicas=2")}


def test_images(helm, one) -> None:
    def image(*values: str) -> tuple[str, str]:
        container = one(helm.render(*values), "Deployment", "octavo-operator")["spec"]["template"]["spec"]["containers"][0]
        return container["image"], next(argument.partition("=")[2] for argument in container["args"] if argument.startswith("--engine-image="))

    assert image() == ("octavo-control:0.1.0", "octavo-engine:0.1.0")
    assert image("images.control.tag=x", "images.engine.tag=y") == ("octavo-control:x", "octavo-engine:y")
    assert image("pinned")[1] == "registry.example.com/octavo/engine@sha256:" + "2" * 64


def test_keys_reach_the_gateway_as_a_file(helm, one) -> None:
    pod = one(helm.render("namespaced"), "Deployment", "octavo-gateway")["spec"]["template"]["spec"]
    (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "keys"]
    assert f"--api-key-file={mount['mountPath']}/keys" in pod["containers"][0]["args"]
    assert {"name": "keys", "secret": {"secretName": "octavo-keys", "defaultMode": 0o440}} in pod["volumes"]


def test_settings_reach_the_gateway_as_whole_numbers(helm, one) -> None:
    arguments = one(helm.render("pinned"), "Deployment", "octavo-gateway")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert {"--max-body-bytes=33554432", "--drain-timeout=90.5", "--first-byte-timeout=1200"} <= set(arguments)
