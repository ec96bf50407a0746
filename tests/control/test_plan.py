"""What the plan does about a deployment, told as stories: what is wanted, what is there, what happens next."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from octavo_api.replica import Load
from octavo_api.resource import LLMDeployment, LLMDeploymentSpec, LLMDeploymentStatus, ModelSpec
from octavo_operator.desired import replica_name
from octavo_operator.plan import LAST_GRACE, PROVEN, RETRY_LONGEST, ROOM_DELAY, SETTLE, plan, retry_at
from octavo_operator.types import Action, Create, Delete, Desired, Failure, Observed, ObservedReplica

NOW = 10_000.0
NO_GPU = Failure("InsufficientGPU", "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.")
CRASHED = Failure("EngineCrashed", "the engine exited with status 1: boom")


def want(replicas: int = 1, strategy: Any = "auto", drain: float = 60.0) -> Desired:
    resource = LLMDeployment(
        name="m",
        namespace="default",
        uid="u",
        generation=1,
        created="",
        deleting=False,
        spec=LLMDeploymentSpec(model=ModelSpec(source="/m")),
        status=LLMDeploymentStatus(),
    )
    return Desired(resource=resource, revision="new", replicas=replicas, strategy=strategy, drain_timeout=drain)


def replica(ordinal: int, phase: Any = "ready", revision: str = "new", **facts: Any) -> ObservedReplica:
    return ObservedReplica(name=replica_name("m", revision, ordinal), revision=revision, ordinal=ordinal, phase=phase, created=NOW - 30, **facts)


def new(ordinal: int, phase: Any = "ready", **facts: Any) -> ObservedReplica:
    return replica(ordinal, phase, **facts)


def old(ordinal: int, phase: Any = "ready", **facts: Any) -> ObservedReplica:
    return replica(ordinal, phase, revision="old", **facts)


def stopped(ordinal: int, since: float, revision: str = "new", **facts: Any) -> ObservedReplica:
    return replica(ordinal, "stopped", revision=revision, stopped_at=NOW - since, failure=CRASHED, **facts)


def draining(ordinal: int, since: float, open_requests: int | None, revision: str = "new", **facts: Any) -> ObservedReplica:
    load = None if open_requests is None else Load(running=open_requests, waiting=0, draining=False)
    return replica(ordinal, revision=revision, draining_since=NOW - since, load=load, **facts)


def told(action: Action) -> str:
    return f"{type(action).__name__.lower()} {action.replica.removeprefix('m-')}"


@dataclass
class Story:
    name: str
    wanted: Desired
    there: list[ObservedReplica]
    then: list[str]
    facts: dict[str, Any] = field(default_factory=dict)


STORIES = [
    Story("the first replica is made", want(1), [], ["create new-0"]),
    Story("several are made at once", want(3), [], ["create new-0", "create new-1", "create new-2"]),
    Story("what is as wanted is left alone", want(2), [new(0), new(1)], []),
    Story("one that loads is waited for", want(1), [new(0, "loading")], []),
    Story("scaling up fills the free ordinals", want(3), [new(1)], ["create new-0", "create new-2"]),
    Story("scaling down drains the newest", want(1), [new(0), new(1)], ["drain new-1"]),
    Story("scaling down spares those that are ready", want(1), [new(0, "loading"), new(1)], ["drain new-0"]),
    Story("scaling to zero drains all", want(0), [new(0), new(1, "loading")], ["drain new-1", "drain new-0"]),
    Story("at zero there is nothing to do", want(0), [], []),
    # drain
    Story("a drained replica goes when it is idle", want(0), [draining(0, 5, 0)], ["delete new-0"]),
    Story("one with open requests is waited for", want(0), [draining(0, 5, 2)], []),
    Story("an idle one is kept until gateways have seen the mark", want(0), [draining(0, SETTLE / 2, 0)], []),
    Story("one that does not say what it does is waited for", want(0), [draining(0, 5, None)], []),
    Story("at the deadline it goes, open requests or not", want(0), [draining(0, 61, 2)], ["delete new-0"]),
    Story("one that never served goes at once", want(0), [new(0, "loading", draining_since=NOW)], ["delete new-0"]),
    Story("one that is being deleted is left to it", want(0), [new(0, terminating=True)], []),
    Story("scaled down and up again: the draining one comes back", want(1), [draining(0, 5, 2)], ["undrain new-0"]),
    Story("only as many come back as are wanted", want(1), [draining(0, 5, 0), draining(1, 5, 0)], ["undrain new-0", "delete new-1"]),
    # failures
    Story("one that stopped is kept as evidence until its pause is over", want(1), [stopped(0, since=1)], []),
    Story("then it is replaced", want(1), [stopped(0, since=3)], ["create new-1", "delete new-0"]),
    Story("the pause grows with each attempt", want(1), [stopped(0, since=3, attempt=3)], []),
    Story("one that stopped and is not wanted is removed", want(0), [stopped(0, since=1)], ["delete new-0"]),
    Story("one that stopped while draining is removed", want(0), [stopped(0, since=1, draining_since=NOW - 5)], ["delete new-0"]),
    Story("the others of a fleet stay when one stops", want(2), [new(0), stopped(1, since=1)], []),
    Story("a pod deleted by hand is replaced while it drains", want(1), [new(0, terminating=True)], ["create new-1"]),
    Story("a pod that vanished is made again", want(2), [new(0)], ["create new-1"]),
    Story("one without a place is left pending", want(1), [new(0, "pending", failure=NO_GPU)], []),
    # rollout
    Story("surge: one new replica above the wanted number", want(2, "surge"), [old(0), old(1)], ["create new-0"]),
    Story("surge: nothing goes before the new one is ready", want(2, "surge"), [old(0), old(1), new(0, "loading")], []),
    Story("surge: then one old replica goes and the next comes", want(2, "surge"), [old(0), old(1), new(0)], ["drain old-1"]),
    Story("surge: the next one comes", want(2, "surge"), [old(0), draining(1, 5, 1, "old"), new(0)], ["create new-1"]),
    Story("surge: the last old one goes", want(2, "surge"), [old(0), new(0), new(1)], ["drain old-0"]),
    Story("surge: without room it waits", want(1, "surge"), [old(0), new(0, "pending", failure=NO_GPU)], []),
    Story("a revision that crashes takes nothing down", want(2), [old(0), old(1), stopped(0, since=1)], []),
    Story("an old replica that serves nobody goes first", want(1), [old(0, "loading"), new(0, "loading")], ["drain old-0"]),
    Story("an old one that loads stays while its revision serves", want(2), [old(0), old(1, "loading"), new(0, "loading")], []),
    Story("one that would be too many does not block the new revision", want(1), [old(0), old(1, "pending", failure=NO_GPU)], ["drain old-1"]),
    Story("recreate: an old one goes before a new one comes", want(1, "recreate"), [old(0)], ["drain old-0"]),
    Story("recreate: one at a time", want(2, "recreate"), [old(0), old(1)], ["drain old-1"]),
    Story("recreate: the new one waits for the old one's end", want(1, "recreate"), [draining(0, 5, 1, "old")], []),
    Story("recreate: and comes then", want(2, "recreate"), [old(0)], ["create new-0"]),
    Story("recreate: the next goes when the new one is ready", want(2, "recreate"), [old(0), new(0)], ["drain old-0"]),
    Story("recreate: trouble of the new revision stops it", want(2, "recreate"), [old(0), stopped(0, since=1)], []),
    Story("recreate: a new one without a place is no trouble", want(1, "recreate"), [old(0), new(0, "pending", failure=NO_GPU)], ["drain old-0"]),
    Story("auto: without room an old one gives its own", want(1), [old(0), new(0, "pending", failure=NO_GPU)], ["drain old-0"]),
    Story("auto: room that just became free is waited for", want(1), [old(0), new(0, "pending", failure=NO_GPU)], [], {"last_gone": NOW - 1}),
    Story("auto: a missing claim is no lack of room", want(1), [old(0), new(0, "pending", failure=Failure("ClaimNotFound", "…"))], []),
    Story("auto: one at a time", want(2), [old(0), draining(1, 5, 1, "old"), new(0), new(1, "pending", failure=NO_GPU)], []),
    Story("auto: a full quota is a lack of room", want(1), [old(0)], ["create new-0", "drain old-0"], {"refused": Failure("QuotaExceeded", "…")}),
    Story("auto: a forbidden pod is none", want(1), [old(0)], ["create new-0"], {"refused": Failure("PodRefused", "…")}),
    Story("reverted in mid-rollout: what was new and is not ready goes", want(2), [new(0), new(1), old(0, "loading")], ["drain old-0"]),
    Story("reverted: what drained comes back before anything is made", want(2), [new(0), draining(1, 5, 1), old(0)], ["undrain new-1"]),
    Story("changed and scaled to zero: all go", want(0), [old(0), old(1, "loading")], ["drain old-1", "drain old-0"]),
    Story("two changes at once: the middle one is dropped", want(1), [old(0), replica(0, "loading", "mid")], ["drain mid-0"]),
    # names
    Story("names of an earlier resource's replicas are passed over", want(2), [], ["create new-1", "create new-2"], {"taken": frozenset({"m-new-0"})}),
    Story("a name that an older resource has: nothing is made", want(2), [], [], {"name_holder": "default/older"}),
    Story("a name lost while it serves: nothing is taken down", want(1), [new(0)], [], {"name_holder": "default/older"}),
    Story("a name lost: scaling down still works", want(0), [new(0)], ["drain new-0"], {"name_holder": "default/older"}),
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_story(story: Story) -> None:
    facts = {"last_gone": 0.0} | story.facts
    decided = plan(story.wanted, Observed(replicas=tuple(story.there), **facts), NOW)
    assert [told(action) for action in decided.actions] == story.then
    assert all(action.reason for action in decided.actions)


def decide(wanted: Desired, *there: ObservedReplica, now: float = NOW, **facts: Any):
    return plan(wanted, Observed(replicas=there, **facts), now)


class TestTime:
    """When the plan wants to be asked again because time alone changes its answer."""

    def test_nothing_to_wait_for(self) -> None:
        assert decide(want(1), new(0)).wake_at is None

    def test_a_stopped_replica_is_due(self) -> None:
        dead = stopped(0, since=1, attempt=2)
        assert decide(want(1), dead).wake_at == retry_at(dead)
        (create, delete) = decide(want(1), dead, now=retry_at(dead)).actions
        assert (told(create), told(delete)) == ("create new-1", "delete new-0")

    def test_gateways_see_the_mark(self) -> None:
        decided = decide(want(0), draining(0, 0.5, 0))
        assert decided.wake_at == NOW - 0.5 + SETTLE

    def test_the_drain_deadline(self) -> None:
        assert decide(want(0), draining(0, 10, 3)).wake_at == NOW + 50

    def test_room_that_became_free(self) -> None:
        decided = decide(want(1), old(0), new(0, "pending", failure=NO_GPU), last_gone=NOW - 1)
        assert decided.wake_at == NOW - 1 + ROOM_DELAY


class TestBackOff:
    """A replica that stops again and again is replaced ever more rarely, until one has run long enough."""

    def test_attempts_are_counted_on(self) -> None:
        create = decide(want(1), stopped(0, since=400, attempt=4)).actions[0]
        assert isinstance(create, Create)
        assert create.attempt == 5

    def test_pauses_double_up_to_a_limit(self) -> None:
        pauses = [retry_at(stopped(0, since=0, attempt=attempt)) - NOW for attempt in range(12)]
        assert pauses[:4] == [2, 4, 8, 16]
        assert pauses[-1] == RETRY_LONGEST

    def test_one_that_ran_long_starts_anew(self) -> None:
        dead = ObservedReplica(name="m-new-0", revision="new", ordinal=0, phase="stopped", created=NOW - PROVEN - 10, attempt=9, stopped_at=NOW - 5)
        create = decide(want(1), dead).actions[0]
        assert isinstance(create, Create)
        assert create.attempt == 1


class TestGrace:
    """How long a deleted replica gets between SIGTERM and SIGKILL."""

    @staticmethod
    def grace(there: ObservedReplica) -> float:
        (delete,) = decide(want(0), there).actions
        assert isinstance(delete, Delete)
        return delete.grace

    def test_an_idle_one_gets_what_is_left_of_its_drain(self) -> None:
        assert self.grace(draining(0, 10, 0)) == 50

    def test_one_that_used_its_time_up_gets_little(self) -> None:
        assert self.grace(draining(0, 100, 3)) == LAST_GRACE

    def test_one_that_takes_no_requests_may_have_taken_some(self) -> None:
        assert self.grace(new(0, "loading", draining_since=NOW - 10)) == 50

    def test_one_that_stopped_needs_none(self) -> None:
        assert self.grace(stopped(0, since=1)) == 0


def test_the_same_world_gives_the_same_plan() -> None:
    there = (old(0), old(1, "loading"), new(0, "pending", failure=NO_GPU), stopped(1, since=1))
    assert decide(want(3), *there) == decide(want(3), *there)
