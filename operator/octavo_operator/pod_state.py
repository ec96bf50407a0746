"""What a pod says about its replica: a pure function from a pod of the API server to an `ObservedReplica`.

Here a kubelet's and a scheduler's words become the reasons of conditions. Asking the replica itself is left to the runtime.
"""

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from octavo_api.replica import Progress
from octavo_api.resource import ANNOTATION_DRAINING, LABEL_ORDINAL, LABEL_REVISION
from octavo_operator.pods import ANNOTATION_ATTEMPT
from octavo_operator.types import Failure, ObservedReplica, Phase

Json = dict[str, Any]

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"}
_CONFIG_REASONS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_UNSCHEDULABLE = (
    (r"persistentvolumeclaim \"[^\"]*\" (not found|is being deleted)", "ClaimNotFound"),
    (r"unbound immediate PersistentVolumeClaims|volume node affinity conflict|persistentvolume", "ClaimNotBound"),
    (r"Insufficient [\w.-]*/gpu", "InsufficientGPU"),
    (r"Insufficient memory", "InsufficientMemory"),
    (r"Insufficient cpu", "InsufficientCPU"),
    (r"didn't match Pod's node affinity|untolerated taint", "NoMatchingNode"),
    (r"", "Unschedulable"),
)
_MESSAGE_LIMIT = 512
_SIGNALS = {137: "was killed (SIGKILL)", 139: "crashed (SIGSEGV)", 134: "aborted (SIGABRT)", 143: "was ended (SIGTERM)"}


def replica_of(pod: Json, now: float) -> ObservedReplica:
    """The replica that `pod` is; progress and load are left for the runtime to ask for."""
    metadata, status = pod["metadata"], pod.get("status", {})
    annotations = metadata.get("annotations") or {}
    container: Json = next(iter(status.get("containerStatuses") or []), {})
    died = _last_death(container)
    phase = phase_of(pod)
    return ObservedReplica(
        name=metadata["name"],
        revision=metadata["labels"].get(LABEL_REVISION, ""),
        ordinal=_number(metadata["labels"].get(LABEL_ORDINAL)),
        phase=phase,
        created=timestamp(metadata.get("creationTimestamp")) or 0.0,
        attempt=_number(annotations.get(ANNOTATION_ATTEMPT)),
        draining_since=draining_since(annotations.get(ANNOTATION_DRAINING), now),
        terminating="deletionTimestamp" in metadata,
        failure=None if phase == "ready" else next(_failures(pod, container, died), None),
        restarts=container.get("restartCount", 0),
        last_crash=timestamp(died.get("finishedAt")),
        stopped_at=_stopped_at(pod, died) if phase == "stopped" else None,
    )


def phase_of(pod: Json) -> Phase:
    """A replica's phase; a container that its kubelet restarts is starting, however often."""
    status = pod.get("status", {})
    if status.get("phase") in ("Failed", "Succeeded"):
        return "stopped"
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or []}
    if conditions.get("PodScheduled") != "True":
        return "pending"
    container: Json = next(iter(status.get("containerStatuses") or []), {})
    if "running" not in container.get("state", {}):
        return "starting"
    return "ready" if conditions.get("Ready") == "True" else "loading"


def _failures(pod: Json, container: Json, died: Json) -> Iterator[Failure]:
    """Each check names a cause or passes; the first one that speaks is it."""
    checks: tuple[Callable[[Json, Json, Json], Failure | None], ...] = (_unschedulable, _gone, _node_lost, _not_pulled, _not_started, _crashed)
    return (failure for check in checks if (failure := check(pod, container, died)))


def _unschedulable(pod: Json, _container: Json, _died: Json) -> Failure | None:
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = condition.get("message", "")
            reason = next(reason for pattern, reason in _UNSCHEDULABLE if re.search(pattern, message))
            return Failure(reason, short(re.split(r",?( no new claims to deallocate,)? preemption:", message)[0]))
    return None


def _gone(pod: Json, container: Json, died: Json) -> Failure | None:
    status = pod.get("status", {})
    if status.get("phase") not in ("Failed", "Succeeded"):
        return None
    if status.get("reason"):
        return Failure(status["reason"], short(status.get("message", "the pod ended")))
    return _crashed(pod, container, died) or Failure("EngineExited", "the pod ended")


def _node_lost(pod: Json, _container: Json, _died: Json) -> Failure | None:
    """Only the node controller says not Ready of a pod whose kubelet said last that its containers are."""
    found = {condition["type"]: condition for condition in pod.get("status", {}).get("conditions") or []}
    ready, containers = found.get("Ready", {}), found.get("ContainersReady", {})
    if ready.get("status") == "False" and containers.get("status") == "True" and not pod["spec"].get("readinessGates"):
        return Failure("NodeLost", f"node {pod['spec'].get('nodeName')} has not reported since {ready.get('lastTransitionTime')}")
    return None


def _not_pulled(_pod: Json, container: Json, _died: Json) -> Failure | None:
    waiting = container.get("state", {}).get("waiting") or {}
    if waiting.get("reason") in _IMAGE_REASONS:
        return Failure("ImagePullFailed", short(f"{container.get('image')}: {waiting.get('message', waiting['reason'])}"))
    return None


def _not_started(_pod: Json, container: Json, _died: Json) -> Failure | None:
    waiting = container.get("state", {}).get("waiting") or {}
    if waiting.get("reason") in _CONFIG_REASONS:
        return Failure("ContainerNotStarted", short(waiting.get("message", waiting["reason"])))
    return None


def _crashed(_pod: Json, container: Json, died: Json) -> Failure | None:
    if not died:
        return None
    if died.get("reason") in ("StartError", "ContainerCannotRun"):
        return Failure("ContainerNotStarted", short(died.get("message", "")))
    failure = crash(died.get("exitCode", 0), died.get("message", ""), oom=died.get("reason") == "OOMKilled")
    times = container.get("restartCount", 0)
    waiting = (container.get("state", {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    if waiting and times >= 2 and failure.reason == "EngineCrashed":
        return Failure("CrashLoop", f"restarted {times} times; {failure.message}")
    return failure


def crash(exit_code: int, output: str, *, oom: bool = False) -> Failure:
    """Why a replica's process ended, from its exit code and the last lines of its output."""
    try:
        told = msgspec.json.decode(output, type=Progress)
        return Failure(told.reason or "EngineCrashed", short(told.message))
    except msgspec.DecodeError:
        last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    if oom:
        return Failure("EngineOOM", short(f"the engine took more memory than resources.memory allows; last line: {last}"))
    how = _SIGNALS.get(exit_code, f"exited with status {exit_code}")
    named = re.search(r"\b([A-Z][A-Za-z]*[a-z][A-Z][A-Za-z]*): (.+)", last)
    if named and not named[1].endswith(("Error", "Exception", "Warning")):
        return Failure(named[1], short(named[2]))
    reason = "InvalidSetting" if exit_code == 2 else "EngineCrashed"
    return Failure(reason, short(f"the engine {how}" + (f": {last}" if last else "")))


def _last_death(container: Json) -> Json:
    for state in (container.get("state"), container.get("lastState")):
        if state and state.get("terminated"):
            return dict(state["terminated"])
    return {}


def _stopped_at(pod: Json, died: Json) -> float:
    transitions = [timestamp(condition.get("lastTransitionTime")) or 0.0 for condition in pod["status"].get("conditions") or []]
    return timestamp(died.get("finishedAt")) or max(transitions, default=0.0)


def draining_since(mark: str | None, now: float) -> float | None:
    """When a drain began; a mark without a time, which a person may have set, begins it now."""
    if mark is None:
        return None
    try:
        return timestamp(mark) or now
    except ValueError:
        return now


def _number(text: str | None) -> int:
    """Of a label that we wrote and anyone may have changed."""
    return int(text) if text and re.fullmatch(r"[0-9]{1,9}", text) else 0


def timestamp(text: str | None) -> float | None:
    """Seconds since 1970 of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp() if text else None


def short(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else message[: _MESSAGE_LIMIT - 1] + "…"
