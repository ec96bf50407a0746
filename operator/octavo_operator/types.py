"""The nouns of the control plane: what is wanted, what is there, what to do about it.

The plan speaks of replicas, never of pods or processes; each runtime translates. Times are seconds since
1970, durations seconds. Nothing here does I/O.
"""

from typing import Literal, NamedTuple

from msgspec import Struct

from octavo_api.replica import Load, Progress
from octavo_api.resource import LLMDeployment, LLMDeploymentStatus

Phase = Literal["pending", "starting", "loading", "ready", "stopped"]
"""pending: without a place. starting: has one, its image is pulled or its process starts. loading: the engine runs
and cannot answer yet. ready: answers. stopped: ended, and nothing but the plan will start another."""


class Key(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Failure(Struct, frozen=True):
    """What keeps a replica, a route or a resource from working. `reason` is a CamelCase condition reason."""

    reason: str
    message: str


class ObservedReplica(Struct, frozen=True, kw_only=True):
    """One replica as a runtime saw it.

    `attempt` counts the stopped replicas that this one replaces in a row. `draining_since` is set once it was told
    to drain, `terminating` once it is being deleted, by us or by others. `load` is known only of draining ones,
    None where it did not say. `restarts` and `last_crash` tell of its own supervisor's restarts.
    """

    name: str
    revision: str
    ordinal: int
    phase: Phase
    created: float = 0.0
    attempt: int = 0
    draining_since: float | None = None
    terminating: bool = False
    failure: Failure | None = None
    restarts: int = 0
    last_crash: float | None = None
    stopped_at: float | None = None
    progress: Progress | None = None
    load: Load | None = None

    @property
    def draining(self) -> bool:
        return self.draining_since is not None

    @property
    def live(self) -> bool:
        """Counts towards the replicas that there should be."""
        return not (self.draining or self.terminating or self.phase == "stopped")

    @property
    def ready(self) -> bool:
        return self.live and self.phase == "ready"

    @property
    def stuck(self) -> bool:
        """No node has room for it."""
        return self.live and self.phase == "pending" and self.failure is not None


class Observed(Struct, frozen=True, kw_only=True):
    """All that a runtime saw of one deployment.

    `last_gone` is when one of its replicas was last seen to vanish: what "no room" meant before then may be over.
    `taken` are names of replicas that an earlier resource of the same name left and that are still going.
    `name_holder` is the older resource that has one of its names already, "" for none.
    `refused` is why the last replica that was asked for could not even be made, None when it could.
    `route` is why the gateway does not serve it, None when it does; `route_known` is False when nobody asked.
    """

    replicas: tuple[ObservedReplica, ...] = ()
    taken: frozenset[str] = frozenset()
    last_gone: float = 0.0
    name_holder: str = ""
    refused: Failure | None = None
    route: Failure | None = None
    route_known: bool = False


class Desired(Struct, frozen=True, kw_only=True):
    """What one resource asks for, worked out: `replicas` lies within its bounds, `revision` names its restart-worthy part."""

    resource: LLMDeployment
    revision: str
    replicas: int
    strategy: Literal["auto", "surge", "recreate"]
    drain_timeout: float
    url: str = ""

    @property
    def key(self) -> Key:
        return Key(self.resource.namespace, self.resource.name)


class Create(Struct, frozen=True, tag=True):
    """Make a replica. The name collides with its own repetition, so that a second try cannot double it."""

    replica: str
    ordinal: int
    revision: str
    attempt: int
    reason: str


class Drain(Struct, frozen=True, tag=True):
    """Tell the gateway to send nothing more to a replica."""

    replica: str
    reason: str


class Undrain(Struct, frozen=True, tag=True):
    """Take a draining replica back into service."""

    replica: str
    reason: str


class Delete(Struct, frozen=True, tag=True):
    """End a replica; it gets `grace` seconds after SIGTERM."""

    replica: str
    grace: float
    reason: str


Action = Create | Drain | Undrain | Delete


class Plan(Struct, frozen=True, kw_only=True):
    """What to do now, in this order, what to say, and when time alone may change the answer (None: never)."""

    actions: tuple[Action, ...]
    status: LLMDeploymentStatus
    wake_at: float | None = None
