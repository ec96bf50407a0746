"""Pods as kubelets and schedulers describe them, and the reasons that people read. Statuses are copies of real ones, cut down."""

import copy
from typing import Any

import pytest

from octavo_api.resource import ANNOTATION_DRAINING
from octavo_operator.pod_state import crash, replica_of

NOW = 1_767_225_600.0
POD: dict[str, Any] = {
    "metadata": {
        "name": "m-0123456789-1",
        "namespace": "default",
        "labels": {"octavo.dev/deployment": "m", "octavo.dev/revision": "0123456789", "octavo.dev/ordinal": "1"},
        "annotations": {"octavo.dev/attempt": "3"},
        "creationTimestamp": "2025-12-31T23:59:00Z",
    },
    "spec": {"nodeName": "node-a"},
    "status": {"phase": "Pending", "qosClass": "Guaranteed"},
}
SCHEDULED = {"type": "PodScheduled", "status": "True"}
IMAGE = "registry.example/octavo-engine:0.1.0"
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: head_dim 3 is odd\n'


def pod(status: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    found = copy.deepcopy(POD)
    found["status"] |= status
    found["metadata"] |= metadata
    return found


def unschedulable(message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]}


def container(state: dict[str, Any], last: dict[str, Any] | None = None, restarts: int = 0, ready: bool = False) -> dict[str, Any]:
    status = {"name": "engine", "image": IMAGE, "state": state, "lastState": last or {}, "restartCount": restarts, "ready": ready}
    conditions = [SCHEDULED, {"type": "Ready", "status": str(ready)}, {"type": "ContainersReady", "status": str(ready)}]
    return {"phase": "Running", "conditions": conditions, "containerStatuses": [status]}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def died(code: int, message: str = "", reason: str = "Error", at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}}


RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
BACK_OFF = waiting("CrashLoopBackOff", "back-off 20s restarting failed container=engine pod=m-0123456789-1_default(1234)")
LOST = [SCHEDULED, {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}, {"type": "ContainersReady", "status": "True"}]
NODES = "0/3 nodes are available: "
PREEMPTION = " no new claims to deallocate, preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."

FAILURES = {
    "no memory": (unschedulable(f"{NODES}3 Insufficient memory.{PREEMPTION}"), "InsufficientMemory", f"{NODES}3 Insufficient memory."),
    "no cpu": (unschedulable(f"{NODES}3 Insufficient cpu.{PREEMPTION}"), "InsufficientCPU", "3 Insufficient cpu."),
    "no gpu": (unschedulable(f"{NODES}1 Insufficient cpu, 2 Insufficient nvidia.com/gpu.{PREEMPTION}"), "InsufficientGPU", "2 Insufficient nvidia.com/gpu."),
    "no such gpu": (unschedulable(f"{NODES}3 node(s) didn't match Pod's node affinity/selector.{PREEMPTION}"), "NoMatchingNode", "node affinity"),
    "tainted": (unschedulable(f"{NODES}3 node(s) had untolerated taint {{dedicated: db}}.{PREEMPTION}"), "NoMatchingNode", "untolerated taint"),
    "no claim": (unschedulable(f'{NODES}persistentvolumeclaim "models" not found.{PREEMPTION}'), "ClaimNotFound", '"models" not found'),
    "claim unbound": (unschedulable(f"{NODES}pod has unbound immediate PersistentVolumeClaims.{PREEMPTION}"), "ClaimNotBound", "unbound"),
    "claim elsewhere": (unschedulable(f"{NODES}3 node(s) had volume node affinity conflict.{PREEMPTION}"), "ClaimNotBound", "volume node affinity"),
    "anything else": (unschedulable("running PreBind plugin: out of luck"), "Unschedulable", "out of luck"),
    "image not there": (
        container(waiting("ErrImagePull", f'failed to resolve reference "{IMAGE}": not found')),
        "ImagePullFailed",
        f'{IMAGE}: failed to resolve reference "{IMAGE}": not found',
    ),
    "image backs off": (container(waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"')), "ImagePullFailed", f"{IMAGE}: Back-off pulling image"),
    "image never pulled": (
        container(waiting("ErrImageNeverPull", f'Container image "{IMAGE}" is not present with pull policy of Never')),
        "ImagePullFailed",
        "is not present with pull policy of Never",
    ),
    "image misnamed": (container(waiting("InvalidImageName", f'Failed to apply default image tag "{IMAGE}"')), "ImagePullFailed", IMAGE),
    "container refused": (
        container(waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")),
        "ContainerNotStarted",
        "runAsNonRoot",
    ),
    "no such program": (
        container(BACK_OFF, died(128, 'exec: "octavo": executable file not found in $PATH', "StartError"), restarts=1),
        "ContainerNotStarted",
        "executable file not found",
    ),
    "out of memory": (
        container(BACK_OFF, died(137, "reading model-00002-of-00004.safetensors\n", "OOMKilled"), restarts=1),
        "EngineOOM",
        "more memory than resources.memory allows; last line: reading model-00002-of-00004.safetensors",
    ),
    "first crash": (container(BACK_OFF, died(1, TRACEBACK), restarts=1), "EngineCrashed", "the engine exited with status 1: ValueError: head_dim 3 is odd"),
    "crash loop": (container(BACK_OFF, died(1, TRACEBACK), restarts=5), "CrashLoop", "restarted 5 times; the engine exited with status 1: ValueError"),
    "killed": (container(BACK_OFF, died(137, "step 41\n"), restarts=1), "EngineCrashed", "the engine was killed (SIGKILL): step 41"),
    "loading again": (container(RUNNING, died(139), restarts=1), "EngineCrashed", "the engine crashed (SIGSEGV)"),
    "no weights, as the replica says": (
        container(BACK_OFF, died(1, '{"stage":"failed","reason":"WeightsNotFound","message":"/models/m: no such folder"}'), restarts=4),
        "WeightsNotFound",
        "/models/m: no such folder",
    ),
    "no weights, by its log": (container(BACK_OFF, died(1, "octavo serve: WeightsNotFound: /m: none\n"), restarts=4), "WeightsNotFound", "/m: none"),
    "a setting that cannot work": (
        container(BACK_OFF, died(2, "octavo serve: --max-model-len 9999999: more than the model's 8192\n"), restarts=1),
        "InvalidSetting",
        "--max-model-len 9999999",
    ),
    "evicted": ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}, "Evicted", "low on resource"),
    "admission": ({"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected: Node didn't have enough resource: cpu"}, "OutOfcpu", "rejected"),
    "node lost": (container(RUNNING, ready=True) | {"conditions": LOST}, "NodeLost", "node node-a has not reported since 2026-01-01T00:00:00Z"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failure(name: str) -> None:
    status, reason, part = FAILURES[name]
    failure = replica_of(pod(status), NOW).failure
    assert failure is not None
    assert failure.reason == reason
    assert part in failure.message
    assert "preemption" not in failure.message


PHASES = {
    "just made": ({}, "pending"),
    "without a place": (unschedulable("no"), "pending"),
    "has a place": ({"conditions": [SCHEDULED]}, "starting"),
    "pulls its image": (container(waiting("ContainerCreating")), "starting"),
    "crashed": (container(BACK_OFF, died(1), restarts=1), "starting"),
    "runs and is not ready": (container(RUNNING), "loading"),
    "is ready": (container(RUNNING, ready=True), "ready"),
    "failed": ({"phase": "Failed", "reason": "Evicted"}, "stopped"),
    "is done": ({"phase": "Succeeded", "containerStatuses": [{"state": died(0)}]}, "stopped"),
}


@pytest.mark.parametrize("name", PHASES)
def test_phase(name: str) -> None:
    status, phase = PHASES[name]
    assert replica_of(pod(status), NOW).phase == phase


def test_what_a_pod_carries() -> None:
    replica = replica_of(pod(container(RUNNING, died(1, at="2025-12-31T23:59:30Z"), restarts=2, ready=True)), NOW)
    assert (replica.name, replica.revision, replica.ordinal, replica.attempt) == ("m-0123456789-1", "0123456789", 1, 3)
    assert (replica.created, replica.restarts, replica.last_crash) == (NOW - 60, 2, NOW - 30)
    assert replica.failure is None, "a ready replica has none, whatever was before"


def test_a_failed_pod_tells_when() -> None:
    conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": "2025-12-31T23:59:50Z"}]
    assert replica_of(pod({"phase": "Failed", "reason": "Evicted", "conditions": conditions}), NOW).stopped_at == NOW - 10


def test_a_deleted_pod_is_terminating() -> None:
    replica = replica_of(pod(container(RUNNING, ready=True), deletionTimestamp="2026-01-01T00:05:00Z"), NOW)
    assert replica.terminating
    assert not replica.live


@pytest.mark.parametrize(("mark", "since"), [("2025-12-31T23:59:00Z", NOW - 60), ("2026-01-01T00:59:00+01:00", NOW - 60), ("true", NOW), ("", NOW)])
def test_a_drain_mark(mark: str, since: float) -> None:
    assert replica_of(pod({}, annotations={ANNOTATION_DRAINING: mark}), NOW).draining_since == since


def test_labels_that_somebody_changed_stop_nothing() -> None:
    replica = replica_of(pod({}, labels={"octavo.dev/ordinal": "first"}, annotations={"octavo.dev/attempt": "-1"}), NOW)
    assert (replica.ordinal, replica.attempt, replica.revision) == (0, 0, "")


def test_a_long_story_is_cut() -> None:
    failure = crash(1, "x" * 5000)
    assert len(failure.message) <= 512
    assert failure.message.endswith("…")
