"""The plan in a simulated cluster: places for replicas, time, faults, an operator that dies between two actions.

Whatever happens, the rules below hold at every step; and when the faults end, the wanted replicas are there and nothing else.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from octavo_api.replica import Load
from octavo_api.resource import LLMDeployment, LLMDeploymentSpec, LLMDeploymentStatus, ModelSpec
from octavo_operator.plan import SETTLE, SURGE, plan
from octavo_operator.types import Action, Create, Delete, Desired, Drain, Failure, Observed, ObservedReplica, Plan, Undrain

DRAIN_TIMEOUT = 20.0
NO_ROOM = Failure("InsufficientCPU", "0/1 nodes are available: 1 Insufficient cpu.")
CRASHED = Failure("EngineCrashed", "the engine exited with status 1")
RESOURCE = LLMDeployment(
    name="m",
    namespace="default",
    uid="u",
    generation=1,
    created="",
    deleting=False,
    spec=LLMDeploymentSpec(model=ModelSpec(source="/m")),
    status=LLMDeploymentStatus(),
)


@dataclass
class Pod:
    """`open` requests fall to zero once it drains; `ends` is when a deleted one is gone at the latest."""

    name: str
    revision: str
    ordinal: int
    attempt: int
    created: float
    phase: Any = "pending"
    draining_since: float | None = None
    ends: float | None = None
    stopped_at: float | None = None
    open: int = 0

    def seen(self) -> ObservedReplica:
        failure = {"pending": NO_ROOM, "stopped": CRASHED}.get(self.phase)
        load = Load(running=self.open, waiting=0, draining=False) if self.draining_since is not None and self.phase == "ready" else None
        return ObservedReplica(
            name=self.name,
            revision=self.revision,
            ordinal=self.ordinal,
            phase=self.phase,
            created=self.created,
            attempt=self.attempt,
            draining_since=self.draining_since,
            terminating=self.ends is not None,
            failure=failure,
            stopped_at=self.stopped_at,
            load=load,
        )


class Cluster:
    """Carries actions out as a runtime would: a name that exists is not made twice."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.now = 1000.0
        self.last_gone = 0.0
        self.pods: dict[str, Pod] = {}
        self.made: list[str] = []

    def observe(self) -> Observed:
        return Observed(replicas=tuple(pod.seen() for pod in self.pods.values()), last_gone=self.last_gone)

    def apply(self, action: Action) -> bool:
        """False is a conflict: look again."""
        pod = self.pods.get(action.replica)
        if isinstance(action, Create):
            if pod is not None:
                return False
            self.pods[action.replica] = Pod(action.replica, action.revision, action.ordinal, action.attempt, self.now)
            return True
        if pod is None:
            return False
        match action:
            case Drain():
                pod.draining_since = self.now
            case Undrain():
                pod.draining_since = None
            case Delete() if pod.phase == "stopped":
                self._gone(pod)
            case Delete():
                pod.ends = self.now + action.grace
        return True

    def pass_time(self, seconds: float) -> None:
        """Each replica that has a place comes one step further, each that drains has one request less."""
        self.now += seconds
        for pod in list(self.pods.values()):
            if pod.draining_since is not None or pod.ends is not None:
                pod.open = max(0, pod.open - 1)
            if pod.ends is not None and (pod.open == 0 or pod.phase != "ready" or self.now >= pod.ends):
                self._gone(pod)
            elif pod.phase == "pending" and sum(p.phase not in ("pending", "stopped") for p in self.pods.values()) < self.places:
                pod.phase = "starting"
            elif pod.phase in ("starting", "loading") and pod.ends is None:
                pod.phase = {"starting": "loading", "loading": "ready"}[pod.phase]

    def _gone(self, pod: Pod) -> None:
        del self.pods[pod.name]
        self.last_gone = self.now


class World(RuleBasedStateMachine):
    @initialize(places=st.integers(1, 6), replicas=st.integers(0, 4), strategy=st.sampled_from(["auto", "surge", "recreate"]))
    def begin(self, places: int, replicas: int, strategy: Any) -> None:
        self.cluster = Cluster(places)
        self.desired = Desired(resource=RESOURCE, revision="a", replicas=replicas, strategy=strategy, drain_timeout=DRAIN_TIMEOUT)

    @rule(replicas=st.integers(0, 4))
    def scale(self, replicas: int) -> None:
        self.desired = _with(self.desired, replicas=replicas)

    @rule(revision=st.sampled_from("abc"), strategy=st.sampled_from(["auto", "surge", "recreate"]))
    def change(self, revision: str, strategy: Any) -> None:
        self.desired = _with(self.desired, revision=revision, strategy=strategy)

    @rule(seconds=st.sampled_from([0.1, 1.0, 3.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.cluster.pass_time(seconds)

    @rule(data=st.data(), count=st.integers(1, 3))
    def requests_come(self, data: st.DataObject, count: int) -> None:
        serving = [pod for pod in self.cluster.pods.values() if pod.seen().ready]
        if serving:
            data.draw(st.sampled_from(serving)).open += count

    @rule(data=st.data(), fault=st.sampled_from(["stops", "restarts", "is deleted by hand", "vanishes"]))
    def a_replica(self, data: st.DataObject, fault: str) -> None:
        pods = [pod for pod in self.cluster.pods.values() if pod.phase not in ("pending", "stopped") and pod.ends is None]
        if not pods:
            return
        pod = data.draw(st.sampled_from(pods))
        match fault:
            case "stops":
                pod.phase, pod.stopped_at, pod.open = "stopped", self.cluster.now, 0
            case "restarts":
                pod.phase, pod.open = "starting", 0
            case "is deleted by hand":
                pod.ends = self.cluster.now + DRAIN_TIMEOUT
            case "vanishes":
                self.cluster._gone(pod)

    @rule(places=st.integers(1, 6))
    def nodes_come_and_go(self, places: int) -> None:
        self.cluster.places = places

    @rule(done=st.integers(0, 6))
    def look_and_die(self, done: int) -> None:
        """The operator carries out some of its actions, then its process ends."""
        self.look(done)

    @rule(seconds=st.sampled_from([0.1, 1.0]), data=st.data())
    def act_on_what_was(self, seconds: float, data: st.DataObject) -> None:
        """Two operators for a moment: one acts on what it saw before the other did."""
        late = plan(self.desired, self.cluster.observe(), self.cluster.now)
        self.look()
        for action in late.actions:
            if isinstance(action, Create):
                self.cluster.apply(action)
        self.cluster.pass_time(seconds)

    @rule()
    def look_and_act(self) -> None:
        self.look()

    def look(self, limit: int = 100) -> Plan:
        observed = self.cluster.observe()
        decided = plan(self.desired, observed, self.cluster.now)
        assert decided == plan(self.desired, observed, self.cluster.now)
        for action in decided.actions:
            check_delete(action, self.cluster.pods.get(action.replica), self.cluster.now)
        check_serving(self.desired, observed, decided.actions)
        for action in decided.actions[:limit]:
            if not self.cluster.apply(action):
                break
        live = [pod for pod in self.cluster.pods.values() if pod.seen().live]
        if any(isinstance(action, Create | Undrain) for action in decided.actions[:limit]):
            assert len(live) <= self.desired.replicas + SURGE
        return decided

    @invariant()
    def status_counts_what_is_there(self) -> None:
        if hasattr(self, "cluster"):
            decided = plan(self.desired, self.cluster.observe(), self.cluster.now)
            pods = [pod.seen() for pod in self.cluster.pods.values()]
            assert decided.status.replicas.current == sum(pod.live for pod in pods)
            assert decided.status.replicas.ready == sum(pod.ready for pod in pods)
            ready = next(condition for condition in decided.status.conditions if condition.type == "Ready")
            assert ready.status != "True" or any(pod.ready and pod.revision == self.desired.revision for pod in pods)

    def teardown(self) -> None:
        """No more faults, and room enough: it settles."""
        if not hasattr(self, "cluster"):
            return
        self.cluster.places = max(1, self.desired.replicas) + (SURGE if self.desired.strategy == "surge" else 0)
        for _ in range(400):
            decided = self.look()
            pods = [pod.seen() for pod in self.cluster.pods.values()]
            if not decided.actions and len(pods) == self.desired.replicas and all(r.ready and r.revision == self.desired.revision for r in pods):
                assert not [c for c in decided.status.conditions if c.type == "Progressing" and c.status == "True"]
                return
            self.cluster.pass_time(2.0)
        raise AssertionError(f"it does not settle: {self.desired.replicas} of {self.desired.revision} wanted, there are {list(self.cluster.pods.values())}")


def check_delete(action: Action, pod: Pod | None, now: float) -> None:
    """Only what is broken, never served, or has drained may go."""
    if not isinstance(action, Delete) or pod is None or pod.phase != "ready":
        return
    assert pod.draining_since is not None, f"{pod} was never told to drain"
    waited = now - pod.draining_since
    assert waited > DRAIN_TIMEOUT - 0.01 or (pod.open == 0 and waited > SETTLE - 0.01), f"{pod} goes too early"


def check_serving(desired: Desired, observed: Observed, actions: tuple[Action, ...]) -> None:
    """No more ready replicas are drained than can be spared; where one must make way, it is one at a time."""
    ready = {r.name for r in observed.replicas if r.ready}
    drained = {action.replica for action in actions if isinstance(action, Drain)}
    spared = 0 if desired.strategy == "surge" else 1
    assert len(ready - drained) >= min(desired.replicas, len(ready)) - spared
    making_way = min(desired.replicas, len(ready)) - len(ready - drained) > 0
    assert not making_way or not any(r.phase != "stopped" and (r.draining or r.terminating) for r in observed.replicas)


def _with(desired: Desired, **changes: Any) -> Desired:
    values = {name: getattr(desired, name) for name in desired.__struct_fields__}
    return Desired(**(values | changes))


World.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
TestWorld = World.TestCase
