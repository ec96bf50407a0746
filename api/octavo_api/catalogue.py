"""What the gateway knows of the world: models and where their replicas listen.

Made from resources, never from live pods alone: a model that sleeps is still a model. On a cluster the gateway
builds it from the Kubernetes API; on a laptop the local runtime writes it as JSON, replaced atomically.
"""

from typing import Literal

from msgspec import Struct

EndpointState = Literal["loading", "ready", "draining"]


class Endpoint(Struct, frozen=True, kw_only=True):
    """One replica. Addresses are `host:port`."""

    replica: str
    api: str
    internal: str
    state: EndpointState


class Model(Struct, frozen=True, kw_only=True):
    """One LLMDeployment as clients see it. `created` is in seconds since 1970; waits are in seconds."""

    name: str
    aliases: tuple[str, ...] = ()
    namespace: str = "default"
    deployment: str = ""
    created: int = 0
    hold_max_requests: int = 256
    hold_max_wait: float = 120.0
    endpoints: tuple[Endpoint, ...] = ()


class Catalogue(Struct, frozen=True, kw_only=True):
    models: tuple[Model, ...] = ()
