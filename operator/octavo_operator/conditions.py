"""What is true of a deployment, as a chain of pure verdicts: Accepted, Scheduled, EngineReady, RouteReady, and what follows from them.

A verdict looks at the newest revision alone: replicas of an older one never make a deployment ready.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from octavo_api.resource import Condition
from octavo_operator.types import Desired, Failure, Observed, ObservedReplica

LOOP_RESTARTS = 3
"""Restarts after which a replica is in a crash loop …"""
LOOP_WINDOW = 300.0
"""… until it has run this many seconds without another."""


class Verdict(NamedTuple):
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def verdicts(desired: Desired, observed: Observed, now: float) -> dict[str, Verdict]:
    """Every condition's verdict by its type."""
    current = [r for r in observed.replicas if r.revision == desired.revision and not r.draining and not r.terminating]
    parts = {
        "Accepted": accepted(observed),
        "Scheduled": scheduled(desired, observed, current),
        "EngineReady": engine_ready(desired, current, now),
        "RouteReady": route_ready(observed),
    }
    return {
        "Ready": ready(parts),
        **parts,
        "Progressing": progressing(desired, observed, current),
        "Degraded": degraded(desired, observed, current, now),
    }


def accepted(observed: Observed) -> Verdict:
    if observed.name_holder:
        return Verdict("False", "NameConflict", f"{observed.name_holder} is older and serves that name; choose another servedName or alias")
    return Verdict("True", "Accepted", "the spec is valid")


def scheduled(desired: Desired, observed: Observed, current: list[ObservedReplica]) -> Verdict:
    if not desired.replicas:
        return Verdict("True", "ScaledToZero", "no replica is wanted")
    if observed.refused and len(current) < desired.replicas:
        return Verdict("False", observed.refused.reason, observed.refused.message)
    for replica in current:
        if replica.stuck and replica.failure:
            return _failed(replica, replica.failure)
    placed = sum(r.phase != "pending" for r in current)
    if placed < desired.replicas:
        return Verdict("Unknown", "Pending", f"{placed} of {desired.replicas} replicas have a place")
    return Verdict("True", "Scheduled", "every replica has a place")


def engine_ready(desired: Desired, current: list[ObservedReplica], now: float) -> Verdict:
    if not desired.replicas:
        return Verdict("False", "ScaledToZero", "no replica is wanted; requests wait at the gateway")
    steady = sum(r.ready and not looping(r, now) for r in current)
    if steady:
        return Verdict("True", "Ready", f"{steady} of {desired.replicas} replicas answer")
    for replica in current:
        if replica.failure:
            return _failed(replica, replica.failure)
        if looping(replica, now):
            return _crash_loop(replica)
    for phase, explain in (("loading", _loading), ("starting", _starting)):
        for replica in current:
            if replica.phase == phase:
                return explain(replica)
    return Verdict("False", "Pending", f"waiting for {desired.replicas} replicas of revision {desired.revision}")


def route_ready(observed: Observed) -> Verdict:
    if observed.route:
        return Verdict("False", observed.route.reason, observed.route.message)
    if not observed.route_known:
        return Verdict("Unknown", "NotAsked", "the gateway is asked once a replica is ready")
    return Verdict("True", "Routed", "the gateway serves the model")


def ready(parts: Mapping[str, Verdict]) -> Verdict:
    """The first link that does not hold speaks; where a replica answers, another without a place does not matter."""
    chain = ["Accepted", "Scheduled", "EngineReady", "RouteReady"]
    if parts["EngineReady"].status == "True":
        chain.remove("Scheduled")
    for name in chain:
        if parts[name].status != "True":
            return Verdict("False", parts[name].reason, parts[name].message)
    return Verdict("True", "Ready", parts["EngineReady"].message)


def progressing(desired: Desired, observed: Observed, current: list[ObservedReplica]) -> Verdict:
    old = sum(r.revision != desired.revision for r in observed.replicas)
    done = sum(r.ready for r in current)
    leaving = sum(r.draining or r.terminating for r in observed.replicas)
    if old:
        return Verdict("True", "RollingOut", f"{done} of {desired.replicas} replicas have revision {desired.revision}, {old} an older one")
    if done < desired.replicas or len(current) != desired.replicas:
        return Verdict("True", "Scaling", f"{done} of {desired.replicas} replicas are ready")
    if leaving:
        return Verdict("True", "Draining", f"{leaving} replicas finish their requests")
    return Verdict("False", "Complete", f"{done} of {desired.replicas} replicas are ready, none is on its way")


def degraded(desired: Desired, observed: Observed, current: list[ObservedReplica], now: float) -> Verdict:
    for replica in current:
        if replica.failure and desired.replicas:
            return _failed(replica, replica.failure)._replace(status="True")
    for replica in current:
        if looping(replica, now):
            return _crash_loop(replica)._replace(status="True")
    if observed.refused and len(current) < desired.replicas:
        return Verdict("True", observed.refused.reason, observed.refused.message)
    return Verdict("False", "AsWanted", "no replica is in trouble")


def looping(replica: ObservedReplica, now: float) -> bool:
    """Whether it has crashed again and again and not yet shown that this is over."""
    return replica.restarts >= LOOP_RESTARTS and replica.last_crash is not None and now - replica.last_crash < LOOP_WINDOW


def stamped(previous: Iterable[Condition], found: Mapping[str, Verdict], generation: int, now: float) -> tuple[Condition, ...]:
    """Conditions to publish; a transition time moves only when the status does."""
    before = {condition.type: condition for condition in previous}
    stamp = rfc3339(now)
    return tuple(
        Condition(
            type=kind,
            status=verdict.status,
            reason=verdict.reason,
            message=verdict.message,
            last_transition_time=before[kind].last_transition_time if kind in before and before[kind].status == verdict.status else stamp,
            observed_generation=generation,
        )
        for kind, verdict in found.items()
    )


def rfc3339(time: float) -> str:
    """Whole seconds in UTC, as Kubernetes writes times."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _crash_loop(replica: ObservedReplica) -> Verdict:
    """Its words do not change from one look to the next: a changed status is written and looked at again."""
    return Verdict("False", "CrashLoop", f"{replica.name}: the engine crashed {replica.restarts} times, last at {rfc3339(replica.last_crash or 0.0)}")


def _failed(replica: ObservedReplica, failure: Failure) -> Verdict:
    return Verdict("False", failure.reason, f"{replica.name}: {failure.message}")


def _loading(replica: ObservedReplica) -> Verdict:
    progress = replica.progress
    if progress is None or progress.stage not in ("downloading", "loading", "warming"):
        return Verdict("False", "Loading", f"{replica.name} is loading")
    share = f" {100 * progress.done // progress.total}%" if progress.total else ""
    return Verdict("False", progress.stage.capitalize(), f"{replica.name}: {progress.message or progress.stage}{share}")


def _starting(replica: ObservedReplica) -> Verdict:
    return Verdict("False", "Starting", f"{replica.name} is starting")
