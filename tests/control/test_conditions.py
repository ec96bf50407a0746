"""What status says of what was seen: each row is a situation and the verdicts that a person reads."""

from typing import Any

import pytest

from octavo_api.replica import Progress
from octavo_api.resource import Condition, LLMDeployment, LLMDeploymentSpec, LLMDeploymentStatus, ModelSpec
from octavo_operator.conditions import LOOP_WINDOW, Verdict, looping, rfc3339, stamped, verdicts
from octavo_operator.kube import transitions
from octavo_operator.status import counts, rejected
from octavo_operator.types import Desired, Failure, Observed, ObservedReplica

NOW = 1_767_225_600.0
NO_GPU = Failure("InsufficientGPU", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
OOM = Failure("EngineOOM", "the engine took more memory than resources.memory allows; last line: loading")
CRASHED = Failure("EngineCrashed", "the engine exited with status 1: boom")
ROUTED = {"route_known": True}


def want(replicas: int = 1) -> Desired:
    spec = LLMDeploymentSpec(model=ModelSpec(source="/m"))
    resource = LLMDeployment(name="m", namespace="default", uid="u", generation=7, created="", deleting=False, spec=spec, status=LLMDeploymentStatus())
    return Desired(resource=resource, revision="new", replicas=replicas, strategy="auto", drain_timeout=60.0)


def seen(ordinal: int, phase: Any = "ready", revision: str = "new", **facts: Any) -> ObservedReplica:
    return ObservedReplica(name=f"m-{revision}-{ordinal}", revision=revision, ordinal=ordinal, phase=phase, **facts)


def loop(phase: Any = "ready", **facts: Any) -> ObservedReplica:
    return seen(0, phase, restarts=4, last_crash=NOW - 60, **facts)


def loading(stage: Any, done: int = 0, total: int = 0, message: str = "") -> ObservedReplica:
    return seen(0, "loading", progress=Progress(stage=stage, done=done, total=total, message=message))


SITUATIONS = {
    "nothing is there yet": (
        want(),
        [],
        {},
        {"Ready": "False Pending", "Scheduled": "Unknown Pending", "Progressing": "True Scaling", "Degraded": "False AsWanted"},
    ),
    "it starts": (want(), [seen(0, "starting")], {}, {"Ready": "False Starting", "Scheduled": "True Scheduled"}),
    "it downloads": (want(), [loading("downloading", 1, 4)], {}, {"Ready": "False Downloading", "EngineReady": "False Downloading"}),
    "it loads": (want(), [loading("loading", 3, 4)], {}, {"Ready": "False Loading"}),
    "it does not say how far it is": (want(), [seen(0, "loading")], {}, {"Ready": "False Loading"}),
    "it is ready": (want(), [seen(0)], ROUTED, {"Ready": "True Ready", "RouteReady": "True Routed", "Progressing": "False Complete"}),
    "the gateway was not asked": (want(), [seen(0)], {}, {"Ready": "False NotAsked", "RouteReady": "Unknown NotAsked"}),
    "the gateway does not list it": (
        want(),
        [seen(0)],
        ROUTED | {"route": Failure("NotRouted", "…")},
        {"Ready": "False NotRouted", "EngineReady": "True Ready"},
    ),
    "one of two is ready": (want(2), [seen(0), seen(1, "loading")], ROUTED, {"Ready": "True Ready", "Progressing": "True Scaling"}),
    "there is no GPU": (
        want(),
        [seen(0, "pending", failure=NO_GPU)],
        {},
        {"Ready": "False InsufficientGPU", "Scheduled": "False InsufficientGPU", "Degraded": "True InsufficientGPU"},
    ),
    "there is no second GPU": (
        want(2),
        [seen(0), seen(1, "pending", failure=NO_GPU)],
        ROUTED,
        {"Ready": "True Ready", "Scheduled": "False InsufficientGPU", "Degraded": "True InsufficientGPU"},
    ),
    "it ran out of memory": (want(), [seen(0, "starting", failure=OOM)], {}, {"Ready": "False EngineOOM", "Degraded": "True EngineOOM"}),
    "it stopped": (want(), [seen(0, "stopped", failure=CRASHED)], {}, {"Ready": "False EngineCrashed", "Progressing": "True Scaling"}),
    "it crashed and loads again": (want(), [seen(0, "loading", failure=CRASHED)], {}, {"Ready": "False EngineCrashed"}),
    "it is up between two crashes": (want(), [loop()], ROUTED, {"Ready": "False CrashLoop", "EngineReady": "False CrashLoop", "Degraded": "True CrashLoop"}),
    "one of two crashes again and again": (want(2), [loop(), seen(1)], ROUTED, {"Ready": "True Ready", "Degraded": "True CrashLoop"}),
    "only the old revision is ready": (want(), [seen(0, revision="old"), seen(0, "loading")], {}, {"Ready": "False Loading", "Progressing": "True RollingOut"}),
    "the old revision is ready, the new one crashes": (
        want(),
        [seen(0, revision="old"), seen(0, "starting", failure=CRASHED)],
        ROUTED,
        {"Ready": "False EngineCrashed", "Degraded": "True EngineCrashed"},
    ),
    "the only ready one drains": (want(), [seen(0, draining_since=NOW)], {}, {"Ready": "False Pending", "Progressing": "True Scaling"}),
    "one is deleted by hand": (want(), [seen(0, terminating=True), seen(1)], ROUTED, {"Ready": "True Ready", "Progressing": "True Draining"}),
    "it sleeps": (
        want(0),
        [],
        {},
        {"Ready": "False ScaledToZero", "Scheduled": "True ScaledToZero", "Progressing": "False Complete", "Degraded": "False AsWanted"},
    ),
    "it falls asleep": (want(0), [seen(0, draining_since=NOW)], {}, {"Ready": "False ScaledToZero", "Progressing": "True Draining"}),
    "another has its name": (want(), [], {"name_holder": "default/older"}, {"Ready": "False NameConflict", "Accepted": "False NameConflict"}),
    "its pod may not be": (
        want(),
        [],
        {"refused": Failure("QuotaExceeded", "…")},
        {"Ready": "False QuotaExceeded", "Scheduled": "False QuotaExceeded", "Degraded": "True QuotaExceeded"},
    ),
    "a refusal that no longer matters": (
        want(),
        [seen(0)],
        ROUTED | {"refused": Failure("QuotaExceeded", "…")},
        {"Ready": "True Ready", "Degraded": "False AsWanted"},
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_situation(situation: str) -> None:
    desired, replicas, facts, expected = SITUATIONS[situation]
    found = verdicts(desired, Observed(replicas=tuple(replicas), **facts), NOW)
    assert {kind: f"{found[kind].status} {found[kind].reason}" for kind in expected} == expected
    assert list(found) == ["Ready", "Accepted", "Scheduled", "EngineReady", "RouteReady", "Progressing", "Degraded"]
    assert all(verdict.message for verdict in found.values())


def test_ready_repeats_the_cause_in_words() -> None:
    found = verdicts(want(), Observed(replicas=(seen(0, "starting", failure=OOM),)), NOW)
    assert found["Ready"].message == f"m-new-0: {OOM.message}"


def test_loading_says_how_far() -> None:
    found = verdicts(want(), Observed(replicas=(loading("downloading", 1, 4, "model.safetensors"),)), NOW)
    assert found["Ready"].message == "m-new-0: model.safetensors 25%"


def test_a_crash_loop_is_over_after_a_while() -> None:
    assert looping(loop(), NOW)
    assert not looping(loop(), NOW + LOOP_WINDOW)
    assert not looping(seen(0, restarts=1, last_crash=NOW - 1), NOW)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_time_alone_does_not_change_the_words(situation: str) -> None:
    """Each change of status is written and watched: words that move with the clock would never come to rest."""
    desired, replicas, facts, _ = SITUATIONS[situation]
    observed = Observed(replicas=tuple(replicas), **facts)
    assert verdicts(desired, observed, NOW) == verdicts(desired, observed, NOW + 7)


def test_counts() -> None:
    replicas = (
        seen(0),
        seen(1, "loading"),
        seen(0, revision="old"),
        seen(1, revision="old", draining_since=NOW),
        seen(2, terminating=True),
        seen(3, "stopped"),
    )
    found = counts(want(3), Observed(replicas=replicas))
    assert (found.current, found.desired, found.ready, found.loading, found.draining, found.updated) == (3, 3, 2, 1, 2, 2)


class TestTransitionTimes:
    BEFORE = (Condition(type="Ready", status="False", reason="Loading", last_transition_time="2025-01-01T00:00:00Z"),)

    def stamp(self, status: Any, reason: str) -> Condition:
        (condition,) = stamped(self.BEFORE, {"Ready": Verdict(status, reason, "…")}, 7, NOW)
        assert condition.observed_generation == 7
        return condition

    def test_another_reason_is_no_transition(self) -> None:
        assert self.stamp("False", "Warming").last_transition_time == "2025-01-01T00:00:00Z"

    def test_another_status_is_one(self) -> None:
        assert self.stamp("True", "Ready").last_transition_time == rfc3339(NOW) == "2026-01-01T00:00:00Z"


def test_a_spec_that_cannot_be_read_keeps_the_counts() -> None:
    manifest = {"metadata": {"name": "m", "generation": 9}, "status": {"replicas": {"ready": 2}, "url": "http://g/v1", "revision": "r"}}
    found = rejected(manifest, ValueError("spec.replicas: is -1"), NOW)
    assert (found.observed_generation, found.replicas.ready, found.url, found.revision) == (9, 2, "http://g/v1", "r")
    assert {(c.type, c.status, c.reason, c.message) for c in found.conditions} == {
        (kind, "False", "InvalidSpec", "spec.replicas: is -1") for kind in ("Ready", "Accepted")
    }


def said(**conditions: str) -> LLMDeploymentStatus:
    found = (Condition(type=kind, status=verdict.split()[0], reason=verdict.split()[1]) for kind, verdict in conditions.items())
    return LLMDeploymentStatus(conditions=tuple(found))


@pytest.mark.parametrize(
    ("before", "after", "events"),
    [
        (said(), said(Ready="False Pending", Progressing="True Scaling", Degraded="False AsWanted"), ["Scaling"]),
        (said(), said(Accepted="False NameConflict"), ["NameConflict"]),
        (said(Ready="False Loading"), said(Ready="True Ready"), ["Ready"]),
        (said(Ready="True Ready"), said(Ready="False EngineCrashed"), ["EngineCrashed"]),
        (said(Ready="False Loading"), said(Ready="False Warming"), []),
        (said(Degraded="True ImagePullFailed"), said(Degraded="True EngineCrashed"), ["EngineCrashed"]),
        (said(Degraded="True EngineCrashed"), said(Degraded="False AsWanted"), ["AsWanted"]),
        (said(Progressing="True Scaling"), said(Progressing="True RollingOut"), ["RollingOut"]),
        (said(Scheduled="False InsufficientGPU"), said(Scheduled="True Scheduled"), []),
        (said(Ready="True Ready"), said(Ready="True Ready"), []),
    ],
)
def test_events_tell_of_transitions_alone(before: LLMDeploymentStatus, after: LLMDeploymentStatus, events: list[str]) -> None:
    assert [condition.reason for condition in transitions(before, after)] == events
