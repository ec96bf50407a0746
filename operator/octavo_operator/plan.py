"""What to do about a deployment: `plan(desired, observed, now)`, a pure function and the only place that decides.

It sees replicas, a clock reading and nothing else, so one table of stories and one simulated world test all of it.
Carrying the actions out is left to a runtime, calling it again to the reconciler.

One replica above the wanted number may exist while a rollout surges. A replica is drained before it is deleted; one
of an older revision goes only when enough others are ready, so a revision that never becomes ready takes none down.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from octavo_operator.desired import replica_name
from octavo_operator.status import status
from octavo_operator.types import Action, Create, Delete, Desired, Drain, Observed, ObservedReplica, Plan, Undrain

SURGE = 1
"""Replicas above the wanted number that a rollout may have."""
SETTLE = 2.0
"""Seconds after the drain mark before an idle replica goes, so that every gateway has seen the mark."""
ROOM_DELAY = 15.0
"""Seconds that a scheduler gets to use room that became free, before a rollout frees more."""
LAST_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL for a replica that has used up its drain timeout."""
RETRY_FIRST, RETRY_LONGEST = 2.0, 300.0
"""Seconds before a stopped replica is replaced: doubled with each attempt."""
PROVEN = 600.0
"""A replica that ran this many seconds starts its attempts anew."""
NO_ROOM = frozenset({"InsufficientGPU", "InsufficientCPU", "InsufficientMemory", "QuotaExceeded"})
"""Reasons of a replica that is stuck or could not be made, which another's leaving can end."""


def plan(desired: Desired, observed: Observed, now: float) -> Plan:
    """Actions that bring `observed` nearer to `desired`, the status to publish, and when to look again."""
    fleet = _Fleet(desired, observed, now)
    free = not observed.name_holder
    if free:
        fleet.fill()
    fleet.shrink()
    if free:
        fleet.replace_old()
    fleet.finish()
    return Plan(actions=tuple(fleet.actions), status=status(desired, observed, now), wake_at=min(fleet.wakes, default=None))


def retry_at(replica: ObservedReplica) -> float:
    """When a stopped replica is due for replacement."""
    return (replica.stopped_at or 0.0) + min(RETRY_LONGEST, RETRY_FIRST * 2.0 ** min(_attempts(replica), 16))


def _attempts(replica: ObservedReplica) -> int:
    return 0 if (replica.stopped_at or 0.0) - replica.created >= PROVEN else replica.attempt


def _least_valuable(replicas: Sequence[ObservedReplica]) -> list[ObservedReplica]:
    """In the order in which they should go: those that serve nobody first, then the newest."""
    return sorted(replicas, key=lambda replica: (replica.ready, -replica.ordinal))


def _lacks_room(replica: ObservedReplica) -> bool:
    return replica.stuck and replica.failure is not None and replica.failure.reason in NO_ROOM


@dataclass
class _Fleet:
    """One deployment's replicas sorted by their part in the plan, and the plan as it grows."""

    desired: Desired
    observed: Observed
    now: float
    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        replicas = self.observed.replicas
        newest = self.desired.revision
        self.current = [r for r in replicas if r.live and r.revision == newest]
        self.old = [r for r in replicas if r.live and r.revision != newest]
        self.leaving = [r for r in replicas if r.phase != "stopped" and (r.draining or r.terminating)]
        self.stopped = [r for r in replicas if r.phase == "stopped" and not r.terminating]
        self.going: set[str] = set()
        self.kept: set[str] = set()

    def fill(self) -> None:
        """Take back or make what is missing of the newest revision."""
        missing = max(0, self.desired.replicas - len(self.current))
        due = self._due(missing)
        count = min(missing - len(self.kept), self._room())
        for replica in self._returnable()[: max(count, 0)]:
            self.kept.add(replica.name)
            self.actions.append(Undrain(replica.name, f"is wanted again: {self._tally()}"))
            count -= 1
        for ordinal, _ in zip(self._free_ordinals(), range(count), strict=False):
            dead = due.pop(0) if due else None
            name = replica_name(self.desired.resource.name, self.desired.revision, ordinal)
            reason = f"replaces {dead.name}, which stopped" if dead else self._tally()
            self.actions.append(Create(name, ordinal, self.desired.revision, _attempts(dead) + 1 if dead else 0, reason))

    def shrink(self) -> None:
        """Drain what is too many of the newest revision."""
        surplus = max(0, len(self.current) - self.desired.replicas)
        for replica in _least_valuable(self.current)[:surplus]:
            self._drain(replica, f"is not wanted: {self._tally()}")

    def replace_old(self) -> None:
        """Drain replicas of older revisions as the newest one takes over."""
        ready = [r for r in (*self.current, *self.old) if r.ready and r.name not in self.going]
        new_is_ready = any(r.ready for r in self.current)
        serving = {r.revision for r in self.old if r.ready}
        for replica in (r for r in self.old if not r.ready):
            in_the_way = not self.current and not self.going and self._room() + len(self.kept) <= 0
            if new_is_ready or in_the_way or replica.revision not in serving or not self.desired.replicas:
                self._drain(replica, f"is of revision {replica.revision} and not ready")
        surplus = max(0, len(ready) - self.desired.replicas)
        for replica in [r for r in _least_valuable(self.old) if r.ready][:surplus]:
            self._drain(replica, f"{self.desired.replicas} others are ready, revision {replica.revision} is old")
        if self.desired.strategy == "recreate":
            self._make_way()
        elif self.desired.strategy == "auto":
            self._make_room()

    def finish(self) -> None:
        """Delete what has drained and what has stopped for good."""
        for replica in self.leaving:
            if not replica.terminating and replica.name not in self.kept:
                self._end(replica)
        for replica in self.stopped:
            if replica.name not in self.kept:
                self.actions.append(Delete(replica.name, 0.0, replica.failure.message if replica.failure else "has stopped"))

    def _due(self, missing: int) -> list[ObservedReplica]:
        """Stopped replicas to replace now; those that are not due yet hold their place and stay as evidence."""
        dead = [r for r in self.stopped if r.revision == self.desired.revision and not r.draining][:missing]
        for replica in dead:
            if retry_at(replica) > self.now:
                self.kept.add(replica.name)
                self.wakes.append(retry_at(replica))
        return [r for r in dead if r.name not in self.kept]

    def _room(self) -> int:
        """How many replicas may be added now."""
        taken = len(self.current) + len(self.old) + len(self.kept)
        if self.desired.strategy == "recreate":
            return self.desired.replicas - taken - sum(r.revision != self.desired.revision for r in self.leaving)
        return self.desired.replicas + (SURGE if self.old else 0) - taken

    def _returnable(self) -> list[ObservedReplica]:
        drained = [r for r in self.leaving if not r.terminating and r.revision == self.desired.revision]
        return sorted(drained, key=lambda r: (r.phase != "ready", r.ordinal))

    def _free_ordinals(self) -> Iterator[int]:
        """Ordinals whose names are free; SIGTERM drains, so an earlier resource's replica may keep its name for a while."""
        taken = {r.name for r in self.observed.replicas} | self.observed.taken
        names = ((ordinal, replica_name(self.desired.resource.name, self.desired.revision, ordinal)) for ordinal in itertools.count())
        return (ordinal for ordinal, name in names if name not in taken)

    def _make_way(self) -> None:
        """`recreate`: one old replica goes when none is going, none is coming and the newest revision has no trouble."""
        staying = [r for r in _least_valuable(self.old) if r.name not in self.going]
        healthy = all(r.ready or _lacks_room(r) for r in self.current) and not self.kept and not self.actions
        if staying and healthy and not self.leaving and not self.going:
            self._drain(staying[0], f"makes way for revision {self.desired.revision}")

    def _make_room(self) -> None:
        """`auto`: where nothing but room keeps the newest revision from going on, one old replica gives its own."""
        stuck = [r for r in self.current if _lacks_room(r)]
        staying = [r for r in _least_valuable(self.old) if r.name not in self.going]
        refused = self.observed.refused
        waiting = [r.name for r in stuck]
        if refused and refused.reason in NO_ROOM and len(self.current) < self.desired.replicas:
            waiting.append(f"a replica of revision {self.desired.revision}")
        if not waiting or not staying or self.leaving or self.going or not all(r.ready or r in stuck for r in self.current):
            return
        if self.now < self.observed.last_gone + ROOM_DELAY:
            self.wakes.append(self.observed.last_gone + ROOM_DELAY)
        else:
            self._drain(staying[0], f"gives room to {waiting[0]}")

    def _drain(self, replica: ObservedReplica, reason: str) -> None:
        if replica.name not in self.going:
            self.going.add(replica.name)
            self.actions.append(Drain(replica.name, reason))

    def _end(self, replica: ObservedReplica) -> None:
        since = replica.draining_since or 0.0
        deadline = since + self.desired.drain_timeout
        if replica.load is None and replica.phase != "ready":
            self.actions.append(Delete(replica.name, max(LAST_GRACE, deadline - self.now), "takes no requests"))
        elif self.now >= deadline:
            self.actions.append(Delete(replica.name, LAST_GRACE, f"did not drain within {self.desired.drain_timeout:g} s"))
        elif self.now < since + SETTLE:
            self.wakes.append(min(since + SETTLE, deadline))
        elif replica.load is not None and replica.load.running + replica.load.waiting == 0:
            self.actions.append(Delete(replica.name, max(LAST_GRACE, deadline - self.now), "has no open request"))
        else:
            self.wakes.append(deadline)

    def _tally(self) -> str:
        return f"{len(self.current)} of {self.desired.replicas} replicas of revision {self.desired.revision} exist"
