"""One served model: who may come in, what is open, how the replica is. Both listeners ask here."""

import asyncio
from collections.abc import Sequence

from octavo.async_llm import AsyncLLMEngine
from octavo.server.errors import Refusal
from octavo.server.metrics import Metrics
from octavo.server.record import Record
from octavo_api.replica import Health, Load, Progress
from octavo_api.settings import ServerSettings


class Service:
    """Attributes:
    engine: the model.
    settings: the server's.
    names: what requests may call the model; the first is the one in answers.
    metrics: counts what ends.
    draining: no new requests are taken.
    """

    def __init__(self, engine: AsyncLLMEngine, settings: ServerSettings, names: Sequence[str]) -> None:
        self.engine = engine
        self.settings = settings
        self.names = tuple(names)
        self.metrics = Metrics(self.names[0], engine, lambda: self.load)
        self.draining = False
        self._open: dict[Record, int] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def load(self) -> Load:
        """What is on the replica, requests that are still read or tokenised included."""
        stats = self.engine.stats
        choices = sum(self._open.values())
        waiting = min(choices, self._waiting(choices))
        return Load(
            running=choices - waiting,
            waiting=waiting,
            draining=self.draining,
            kv_blocks_free=stats.kv_blocks - stats.kv_blocks_used,
            kv_blocks_total=stats.kv_blocks,
        )

    @property
    def progress(self) -> Progress:
        found = self.engine.progress
        return Progress(stage="draining") if self.draining and found.stage == "ready" else found

    @property
    def liveness(self) -> Health:
        """The engine's health, draining or not: what a stalled engine drains never ends."""
        return self.engine.health(self.settings.stall_timeout)

    @property
    def health(self) -> Health:
        found = self.liveness
        return Health(status="draining", steps=found.steps, message="requests that are open are finished, new ones refused") if self.draining else found

    def check_ready(self) -> None:
        """
        Raises:
            Refusal: 503, with how far loading is, or why there is no more service.
        """
        health = self.health
        if health.status == "ok" or (health.status == "stalled" and self.engine.is_ready):
            return
        if health.status in ("loading", "stalled"):
            raise Refusal(503, f"the model is not loaded yet: {told(self.engine.progress)}", code="model_not_ready")
        raise Refusal(503, f"the replica takes no requests, it is {health.status}: {health.message}", code="replica_" + health.status)

    def check_model(self, name: str) -> None:
        """
        Raises:
            Refusal: 404, with the names that there are.
        """
        if name not in self.names:
            raise Refusal(404, f"there is no model {name[:200]!r}; there is {', '.join(self.names)}", code="model_not_found", param="model")

    def admit(self, record: Record, choices: int) -> None:
        """Counts a request as open until `leave`.

        Raises:
            Refusal: 429 when too many wait already.
        """
        waiting = self._waiting(sum(self._open.values()))
        if waiting >= self.settings.max_waiting_requests:
            raise Refusal(429, f"{waiting} requests are waiting, which is the most that this replica holds; try again later", code="too_many_waiting")
        self._open[record] = choices
        self._empty.clear()

    def leave(self, record: Record) -> None:
        """The request has ended, however; those that were never admitted are passed over."""
        self._open.pop(record, None)
        if not self._open:
            self._empty.set()

    async def empty(self) -> None:
        """Returns when nothing is open."""
        await self._empty.wait()

    @property
    def num_open(self) -> int:
        return len(self._open)

    def _waiting(self, choices: int) -> int:
        """Statistics are as of the last step; what came since then and cannot run for want of a row waits as well."""
        return max(self.engine.stats.waiting, choices - self.engine.settings.max_num_seqs, 0)


def told(progress: Progress) -> str:
    """Progress in words."""
    return f"{progress.stage}, {100 * progress.done // progress.total}% of {progress.total} bytes" if progress.total else progress.stage
