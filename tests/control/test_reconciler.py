"""Observe → plan → apply as a loop: how often, in what order, and what it does when the world is not as it thought."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from octavo_api.resource import Condition, LLMDeployment, LLMDeploymentStatus, ReplicaCounts
from octavo_operator import reconciler as module
from octavo_operator.reconciler import RESYNC, TROUBLE_RESYNC, Reconciler, resync
from octavo_operator.runtime import Conflict, Refused, Unavailable
from octavo_operator.types import Action, Create, Delete, Drain, Key, Observed, ObservedReplica, Undrain

A, B = Key("default", "a"), Key("default", "b")


class Place:
    """A runtime in memory. `trouble` are exceptions for the next calls of `apply` or `read`, `hold` stops `observe`."""

    image, url = "engine:1", "http://gateway/v1"

    def __init__(self) -> None:
        self.manifests: dict[Key, dict[str, Any]] = {}
        self.replicas: dict[Key, dict[str, ObservedReplica]] = {}
        self.trouble: dict[str, list[Exception]] = {"apply": [], "read": []}
        self.applied: list[str] = []
        self.statuses: dict[Key, LLMDeploymentStatus] = {}
        self.looks: list[Key] = []
        self.now: set[Key] = set()
        self.hold = asyncio.Event()
        self.hold.set()

    def put(self, key: Key, **spec: Any) -> None:
        spec = {"model": {"source": "/m"}} | spec
        metadata = {"name": key.name, "namespace": key.namespace}
        self.manifests[key] = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": metadata, "spec": spec}

    async def read(self, key: Key) -> dict[str, Any] | None:
        if self.trouble["read"]:
            raise self.trouble["read"].pop()
        return self.manifests.get(key)

    async def observe(self, resource: LLMDeployment) -> Observed:
        key = Key(resource.namespace, resource.name)
        assert key not in self.now, "one look at a resource at a time"
        self.looks.append(key)
        self.now.add(key)
        await self.hold.wait()
        await asyncio.sleep(0)
        self.now.discard(key)
        return Observed(replicas=tuple(self.replicas.get(key, {}).values()), route_known=True)

    async def apply(self, resource: LLMDeployment, action: Action) -> None:
        if self.trouble["apply"]:
            raise self.trouble["apply"].pop()
        self.applied.append(type(action).__name__)
        mine = self.replicas.setdefault(Key(resource.namespace, resource.name), {})
        match action:
            case Create():
                mine[action.replica] = ObservedReplica(name=action.replica, revision=action.revision, ordinal=action.ordinal, phase="ready")
            case Drain() | Undrain():
                raise AssertionError("not in these tests")
            case Delete():
                del mine[action.replica]

    async def publish(self, key: Key, manifest: dict[str, Any], status: LLMDeploymentStatus) -> None:
        self.statuses[key] = status

    def ready(self, key: Key) -> bool:
        return key in self.statuses and any(c.type == "Ready" and c.status == "True" for c in self.statuses[key].conditions)


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
async def reconciler(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reconciler]:
    monkeypatch.setattr(module, "SPACING", 0.01)
    monkeypatch.setattr(module, "BACKOFF_FIRST", 0.02)
    loop = Reconciler(place, lambda: 1000.0)
    yield loop
    await loop.close()


async def until(true: Any, seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 the loop under test tells nobody
            await asyncio.sleep(0.005)


async def test_a_wake_leads_to_what_is_wanted(place, reconciler) -> None:
    place.put(A, replicas=2)
    reconciler.wake(A)
    await until(lambda: place.ready(A) and place.statuses[A].replicas.ready == 2)
    assert place.applied == ["Create", "Create"]


async def test_many_wakes_are_one_more_look(place, reconciler) -> None:
    place.put(A)
    place.hold.clear()
    reconciler.wake(A)
    await until(lambda: place.looks == [A])
    for _ in range(100):
        reconciler.wake(A)
    place.put(A, replicas=0)
    before = len(place.looks)
    place.hold.set()
    await asyncio.sleep(0.2)
    assert 1 <= len(place.looks) - before <= 4


async def test_resources_do_not_wait_for_one_another(place, reconciler) -> None:
    place.put(A)
    place.put(B)
    place.trouble["read"] = [RuntimeError("a bug")]
    reconciler.wake(A)
    reconciler.wake(B)
    await until(lambda: place.ready(A) and place.ready(B))


@pytest.mark.parametrize("error", [Conflict("m-0 exists"), Unavailable("429"), RuntimeError("a bug"), TimeoutError()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["read", "apply"])
async def test_what_failed_is_tried_again(place, reconciler, error, where) -> None:
    place.put(A)
    place.trouble[where] = [error] * 3
    reconciler.wake(A)
    await until(lambda: place.ready(A))


async def test_a_refused_replica_does_not_stop_the_other_actions(place, reconciler) -> None:
    place.put(A, replicas=1)
    dead = ObservedReplica(name="a-other-0", revision="other", ordinal=0, phase="stopped")
    place.replicas[A] = {dead.name: dead}
    place.trouble["apply"] = [Refused("exceeded quota")]
    reconciler.wake(A)
    await until(lambda: bool(place.applied))
    assert place.applied[0] == "Delete"
    await until(lambda: place.ready(A))


async def test_a_failure_backs_off(place, reconciler) -> None:
    place.put(A)
    place.trouble["read"] = [RuntimeError("a bug")] * 100
    reconciler.wake(A)
    await asyncio.sleep(0.5)
    assert 100 - len(place.trouble["read"]) <= 6


async def test_an_invalid_spec_is_told_and_its_replicas_stay(place, reconciler) -> None:
    place.put(A, replicas=1)
    reconciler.wake(A)
    await until(lambda: place.ready(A))
    place.put(A, replicas=-1)
    reconciler.wake(A)
    await until(lambda: any(c.reason == "InvalidSpec" for c in place.statuses[A].conditions))
    assert len(place.replicas[A]) == 1


async def test_a_resource_that_is_gone_is_forgotten(place, reconciler) -> None:
    place.put(A)
    reconciler.wake(A)
    await until(lambda: place.ready(A))
    del place.manifests[A]
    reconciler.wake(A)
    await until(lambda: not reconciler._tasks)
    place.put(A)
    looks = len(place.looks)
    reconciler.wake(A)
    await until(lambda: len(place.looks) > looks)


async def test_one_that_is_being_deleted_is_left_to_the_cluster(place, reconciler) -> None:
    place.put(A)
    place.manifests[A]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    reconciler.wake(A)
    await asyncio.sleep(0.1)
    assert place.applied == []


async def test_it_looks_again_though_nothing_was_heard(place, reconciler, monkeypatch) -> None:
    monkeypatch.setattr(module, "RESYNC", 0.05)
    place.put(A)
    reconciler.wake(A)
    await until(lambda: place.ready(A))
    place.replicas[A].clear()
    await until(lambda: place.applied == ["Create", "Create"])


async def test_closed_it_does_no_more(place, reconciler) -> None:
    place.put(A)
    await reconciler.close()
    reconciler.wake(A)
    await asyncio.sleep(0.05)
    assert place.looks == []


@pytest.mark.parametrize(
    ("conditions", "counts", "pause"),
    [
        ({"Ready": "True", "Progressing": "False", "Degraded": "False"}, {"desired": 1, "ready": 1}, RESYNC),
        ({"Ready": "False", "Progressing": "False", "Degraded": "False"}, {"desired": 0}, RESYNC),
        ({"Ready": "False", "Progressing": "True", "Degraded": "False"}, {"desired": 1, "loading": 1}, 0.5),
        ({"Ready": "True", "Progressing": "True", "Degraded": "False"}, {"desired": 1, "ready": 1, "draining": 1}, 0.5),
        ({"Ready": "False", "Progressing": "True", "Degraded": "True"}, {"desired": 1, "loading": 1}, TROUBLE_RESYNC),
        ({"Ready": "False", "Progressing": "False", "Degraded": "False"}, {"desired": 1, "ready": 1}, TROUBLE_RESYNC),
    ],
)
def test_how_soon_it_looks_again(conditions, counts, pause) -> None:
    found = tuple(Condition(type=kind, status=status, reason="x") for kind, status in conditions.items())
    assert resync(LLMDeploymentStatus(conditions=found, replicas=ReplicaCounts(**counts)), 0.5) == pause
