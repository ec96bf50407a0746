"""The contract of a replica: two listeners, their paths, and what they say. `docs/replica.md` tells the story.

The API listener is for clients, through the gateway. The internal listener is for probes, the operator, the
gateway and Prometheus; it is never reachable through the gateway.
"""

from typing import Literal

from msgspec import Struct

API_PORT = 8000
INTERNAL_PORT = 8001

API_PATHS = {
    "/v1/models": "GET",
    "/v1/completions": "POST",
    "/v1/chat/completions": "POST",
}
"""What the gateway forwards or answers; every other path is a 404 there."""

HEALTH = "/health"
"""200 when requests are served, 503 with a `Health` otherwise. On both listeners; the readiness probe."""
LIVE = "/live"
"""200 while loading or stepping makes progress, 503 when it has stalled; the liveness and startup probe."""
PROGRESS = "/progress"
"""GET: a `Progress`."""
METRICS = "/metrics"
"""GET: Prometheus text."""
DRAIN = "/drain"
"""POST: refuse new requests from now on, answer at once with a `Load`. SIGTERM does the same and then exits."""
LOAD = "/load"
"""GET: a `Load`."""

REQUEST_ID_HEADER = "x-request-id"

Stage = Literal["starting", "downloading", "loading", "warming", "ready", "draining", "failed"]


class Progress(Struct, frozen=True, kw_only=True):
    """How far a replica is. `done` and `total` are bytes while downloading or loading, else 0."""

    stage: Stage
    done: int = 0
    total: int = 0
    message: str = ""
    reason: str = ""
    """A CamelCase condition reason when `stage` is `failed`, such as `WeightsNotFound`."""


class Health(Struct, frozen=True, kw_only=True):
    status: Literal["ok", "loading", "draining", "stalled", "dead"]
    steps: int = 0
    """Engine steps completed since start."""
    message: str = ""


class Load(Struct, frozen=True, kw_only=True):
    """What is on a replica now."""

    running: int
    waiting: int
    draining: bool
    kv_blocks_free: int = 0
    kv_blocks_total: int = 0
