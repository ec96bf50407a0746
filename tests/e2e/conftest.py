"""The cluster as the scenarios see it: the chart installed, a namespace of its own for each test with the model in a
PersistentVolume, and the state of everything written down when a test fails.

Starting a cluster, building images and fetching the model is left to `run`.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "charts" / "octavo"
CONTEXTS = ("octavo", "kind-octavo")
MODEL_FILE = "smollm2.gguf"
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace."""

    namespace: str

    def run(self, *arguments: str, manifest: Manifest | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        text = json.dumps(manifest) if manifest is not None else None
        command = ["kubectl", f"--namespace={self.namespace}", *arguments]
        done = subprocess.run(command, input=text, check=False, capture_output=True, text=True, timeout=240)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done

    def __call__(self, *arguments: str) -> str:
        return self.run(*arguments).stdout

    def apply(self, manifest: Manifest) -> None:
        self.run("apply", "-f", "-", manifest=manifest)

    def get(self, *what: str) -> Any:
        return json.loads(self("get", *what, "-o", "json"))

    def names(self, *what: str) -> set[str]:
        """`kind/name` of each object."""
        return set(self("get", *what, "-o", "name").split())


@dataclass(frozen=True)
class Deployment:
    """One LLMDeployment of a test."""

    kubectl: Kubectl
    name: str

    @property
    def served(self) -> str:
        return f"{self.name}.{self.kubectl.namespace}"

    def get(self) -> Any:
        return self.kubectl.get("llmdeployment", self.name)

    def condition(self, kind: str = "Ready") -> Any:
        conditions = self.get().get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {"status": "Unknown", "reason": "", "message": ""})

    def pods(self) -> list[Any]:
        return list(self.kubectl.get("pods", "-l", f"octavo.dev/deployment={self.name}")["items"])

    def is_ready(self, replicas: int) -> bool:
        """The status speaks of the newest spec, and exactly so many replicas are there, all ready."""
        resource = self.get()
        status = resource.get("status", {})
        counts = status.get("replicas", {})
        settled = counts.get("ready", 0) == counts.get("current", 0) == counts.get("updated", 0) == replicas
        observed = status.get("observedGeneration") == resource["metadata"]["generation"]
        return observed and settled and self.condition()["status"] == "True"

    def wait_ready(self, replicas: int = 1, seconds: float = 120) -> None:
        wait_until(lambda: self.is_ready(replicas), seconds, lambda: f"{self.name} has not {replicas} ready replicas: {self.get().get('status')}")


@dataclass(frozen=True)
class Release:
    """The Helm release under test."""

    helm: str
    kubectl: Kubectl

    def install(self, *values: str) -> None:
        """Installs or upgrades; `values` are `key=value` on top of values.yaml."""
        sets = [f"--set={value}" for value in values]
        self._helm("upgrade", "octavo", str(CHART), "--install", "--create-namespace", "--wait", "--timeout=120s", f"--values={HERE}/values.yaml", *sets)

    def uninstall(self) -> None:
        self._helm("uninstall", "octavo", "--wait", "--timeout=120s")

    def _helm(self, *arguments: str) -> None:
        command = [self.helm, f"--namespace={self.kubectl.namespace}", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

    def gateway_url(self) -> str:
        """The gateway's Service as the host reaches it: a node's address and the Service's node port."""
        service = self.kubectl.get("service", "octavo-gateway")
        (node, *_) = self.kubectl.get("nodes")["items"]
        address = next(entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP")
        port = next(port["nodePort"] for port in service["spec"]["ports"] if port["name"] == "http")
        return f"http://{address}:{port}/v1"


class Traffic:
    """`client/traffic.py` at work on this machine."""

    def __init__(self, arguments: list[str]) -> None:
        command = [sys.executable, str(HERE / "client" / "traffic.py"), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait(self, answers: int) -> None:
        """Until so many more are complete."""
        for _ in range(answers):
            assert self.process.stdout.readline(), "the traffic has ended by itself"

    def stop(self) -> dict[str, Any]:
        """The report, once every open answer has ended."""
        output, _ = self.process.communicate(timeout=240)
        return dict(json.loads(output.splitlines()[-1]))

    def __enter__(self) -> "Traffic":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def wait_until(true: Callable[[], bool], seconds: float, otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:.0f} s: {otherwise()}")
        time.sleep(0.3)


@pytest.fixture(scope="session", autouse=True)
def right_context() -> None:
    """The suite deletes what it finds in its way, so it runs in a cluster that was made for it and in no other."""
    context = subprocess.run(["kubectl", "config", "current-context"], check=False, capture_output=True, text=True).stdout.strip()
    if context not in CONTEXTS:
        pytest.exit(f"the kubectl context is {context!r}, the suite runs in {' or '.join(CONTEXTS)} alone: start it with tests/e2e/run", returncode=2)


@pytest.fixture(scope="session")
def release(right_context: None) -> Iterator[Release]:
    """The chart, installed for the whole run."""
    installed = Release(os.environ["HELM"], Kubectl("octavo-system"))
    installed.install()
    yield installed
    installed.uninstall()


@pytest.fixture
def wait() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def kubectl(request: pytest.FixtureRequest, release: Release) -> Iterator[Kubectl]:
    """A namespace for one test, under the restricted Pod Security Standard, with the claim `models`."""
    name = "e2e-" + re.sub("[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    kubectl = Kubectl(name)
    kubectl("delete", "namespace", name, "--ignore-not-found")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    for manifest in volume(name):
        kubectl.apply(manifest)
    kubectl("wait", "persistentvolumeclaim/models", "--for=jsonpath={.status.phase}=Bound", "--timeout=30s")
    wait_until(lambda: bool(kubectl.names("serviceaccount")), 30, lambda: "no service account appears in a new namespace")
    yield kubectl
    # a namespace is emptied in steps many seconds apart, so what has pods goes first and the rest is not waited for
    kubectl.run("delete", "llmdeployments", "--all", "--timeout=120s", check=False)  # their CRD may be gone
    kubectl("delete", "pods", "--all", "--timeout=120s")
    kubectl("delete", "namespace", name, "--wait=false")
    kubectl("delete", "persistentvolume", name, "--wait=false")


def volume(namespace: str) -> list[Manifest]:
    """The folder of models on the node as a PersistentVolume, and a claim on it."""
    common = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    host_path = {"path": f"{os.environ['CLUSTER_HOME']}/models", "type": "Directory"}
    claim = {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": namespace} | common
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": namespace},
            "spec": {"capacity": {"storage": "1Gi"}, "hostPath": host_path, "claimRef": {"namespace": namespace, "name": "models"}} | common,
        },
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models", "namespace": namespace}, "spec": claim},
    ]


@pytest.fixture
def deploy(kubectl: Kubectl) -> Callable[..., Deployment]:
    """`deploy("name", replicas=2)` applies an LLMDeployment that serves SmolLM2 and does not wait for it."""

    def apply(name: str, model: Manifest | None = None, **spec: Any) -> Deployment:
        spec = {
            "model": {"source": f"pvc://models/{MODEL_FILE}"} | (model or {}),
            "resources": {"cpu": "600m", "memory": "1536Mi"},
            "engine": {"maxModelLen": 1024, "kvCacheMemoryBytes": 256 << 20},
            "rollout": {"drainTimeout": "60s"},
        } | spec
        kubectl.apply({"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": name}, "spec": spec})
        return Deployment(kubectl, name)

    return apply


@pytest.fixture
def traffic(release: Release) -> Callable[..., Traffic]:
    """`with traffic("name", streams=4) as running:` streams until `running.stop()`, or `requests` times; `stop` tells what went wrong."""

    def start(model: str, **options: int) -> Traffic:
        return Traffic([release.gateway_url(), model, *(f"--{name}={value}" for name, value in options.items())])

    return start


@pytest.fixture
def traffic_from_a_pod(kubectl: Kubectl) -> Callable[..., Any]:
    """The report of `requests` streamed requests that a pod sent to the gateway's Service by its name."""

    def run(model: str, requests: int) -> Any:
        restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        url = "http://octavo-gateway.octavo-system.svc.cluster.local/v1"
        container = {"name": "client", "image": "localhost/octavo-client:e2e", "imagePullPolicy": "IfNotPresent", "securityContext": restricted}
        container["args"] = [url, model, f"--requests={requests}"]
        spec = {"restartPolicy": "Never", "automountServiceAccountToken": False, "containers": [container]}
        kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client"}, "spec": spec})
        kubectl("wait", "pod/client", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
        return json.loads(kubectl("logs", "client").splitlines()[-1])

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Adds what the cluster says to the report of a test that failed, while its namespace is still there."""
    report = yield
    if report.failed and report.when in ("setup", "call"):
        kubectl = getattr(item, "funcargs", {}).get("kubectl")
        for title, command in state_commands(kubectl.namespace if kubectl else "default"):
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
            report.sections.append((title, done.stdout + done.stderr))
    return report


def state_commands(namespace: str) -> Iterator[tuple[str, list[str]]]:
    yield "llmdeployments", ["kubectl", "get", "llmdeployments", "-A", "-o", "yaml"]
    yield "pods", ["kubectl", "get", "pods", "-A", "-o", "wide"]
    for kind in ("pods", "persistentvolumeclaims"):
        yield f"describe {kind}", ["kubectl", "describe", kind, "-n", namespace]
    yield "events", ["kubectl", "get", "events", "-A", "--sort-by=.lastTimestamp"]
    names = subprocess.run(["kubectl", "get", "pods", "-n", namespace, "-o", "name"], check=False, capture_output=True, text=True).stdout.split()
    for pod in names:
        yield f"log of {pod}", ["kubectl", "logs", "-n", namespace, pod, "--tail=80"]
        yield f"log of {pod} before its restart", ["kubectl", "logs", "-n", namespace, pod, "--tail=40", "--previous"]
    for part in ("operator", "gateway"):
        selector = f"app.kubernetes.io/component={part}"
        yield f"log of the {part}", ["kubectl", "logs", "-n", "octavo-system", "-l", selector, "--tail=150", "--prefix"]
