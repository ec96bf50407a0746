"""What a place to run replicas must do: the only difference between a cluster and a laptop.

`kube.py` and `local.py` implement it. Deciding is left to the plan, when to look to the reconciler.
"""

from typing import Any, Protocol

from octavo_api.resource import LLMDeployment, LLMDeploymentStatus
from octavo_operator.types import Action, Key, Observed


class Conflict(Exception):
    """The world is not as observed (a name is taken, an object changed); observing again will tell."""


class Refused(Exception):
    """The place will not take a replica as it is asked for; `observe` tells why from now on."""


class Unavailable(Exception):
    """The place cannot be asked or told anything now."""


class Runtime(Protocol):
    @property
    def image(self) -> str:
        """What replicas run, as part of their revision."""

    @property
    def url(self) -> str:
        """Where clients reach the gateway."""

    async def read(self, key: Key) -> dict[str, Any] | None:
        """The resource's manifest as it is now, None when it is gone."""

    async def observe(self, resource: LLMDeployment) -> Observed:
        """Everything that the plan may know of the resource's replicas."""

    async def apply(self, resource: LLMDeployment, action: Action) -> None:
        """Carry out one action. Raises Conflict when it no longer fits the world, Refused when the place will not have it, Unavailable."""

    async def publish(self, key: Key, manifest: dict[str, Any], status: LLMDeploymentStatus) -> None:
        """Make a status known, and the transitions in it as events."""
