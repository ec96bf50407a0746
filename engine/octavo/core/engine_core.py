"""The engine's loop. A step: take in what arrived, schedule, begin to execute, finish the one before, update, send.

It knows neither sockets nor processes: those are `engine_process`'s, which gives it an inbox and an outbox.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from octavo.core.kv_cache import KVCache
from octavo.core.messages import Abort, EngineReady, EngineRequest, FromEngine, LoadProgress, RequestUpdate, Shutdown, StepUpdates, ToEngine
from octavo.core.schedule import SchedulerOutput
from octavo.core.scheduler import Scheduler, SchedulerLimits
from octavo.core.sizing import size_kv_cache
from octavo.executor.protocol import Executor
from octavo_api.settings import EngineSettings


class Inbox(Protocol):
    def receive(self, wait: bool) -> ToEngine | None:
        """The next message; None when there is none and `wait` is false."""


Send = Callable[[FromEngine], None]


class EngineCore:
    """One loaded model and the requests on it."""

    def __init__(self, executor: Executor, settings: EngineSettings, inbox: Inbox, send: Send) -> None:
        """Loads the model, sizes and makes the KV cache, and says so.

        Raises:
            ModelUnavailable, InvalidSetting: the model cannot be loaded or does not fit.
        """
        self._executor = executor
        self._inbox = inbox
        self._send = send
        self._begun: deque[SchedulerOutput] = deque()
        facts = executor.load(lambda done, total: send(LoadProgress(stage="loading", done=done, total=total)))
        sizes = size_kv_cache(facts, settings)
        send(LoadProgress(stage="warming", done=0, total=0))
        executor.allocate(sizes.num_blocks)
        limits = SchedulerLimits(
            max_num_seqs=settings.max_num_seqs,
            max_num_batched_tokens=facts.max_num_batched_tokens,
            max_model_len=sizes.max_model_len,
            vocab_size=facts.vocab_size,
        )
        self.scheduler = Scheduler(limits, KVCache(facts.groups, sizes.num_blocks, facts.max_num_batched_tokens, settings.enable_prefix_caching))
        send(
            EngineReady(
                max_model_len=sizes.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                vocab_size=facts.vocab_size,
                kv_blocks=sum(sizes.num_blocks) - len(sizes.num_blocks),
                dtype=facts.dtype,
            )
        )

    def run(self) -> None:
        """Steps until told to stop; then whatever is open is answered as aborted."""
        updates: list[RequestUpdate] = []
        while self._take_in(updates):
            self._step(updates)
            updates = []
        self._answer(updates + self.scheduler.abort_all())

    def _step(self, updates: list[RequestUpdate]) -> None:
        step = self.scheduler.schedule()
        if step.scheduled:
            self._executor.begin(step)
            self._begun.append(step)
        elif self.scheduler.has_work and not self._begun:
            raise RuntimeError(f"{self.scheduler.stats().waiting} requests wait and none can be scheduled")
        if self._begun and (not step.scheduled or len(self._begun) >= self._executor.steps_in_flight):
            updates += self.scheduler.update(self._begun.popleft(), self._executor.finish())
        self._answer(updates)

    def _take_in(self, updates: list[RequestUpdate]) -> bool:
        """Empties the inbox, waiting for a message when there is nothing else to do; whether to go on."""
        message = self._inbox.receive(wait=not (self.scheduler.has_work or self._begun))
        while message is not None:
            if isinstance(message, Shutdown):
                return False
            if isinstance(message, EngineRequest):
                refused = self.scheduler.add(message)
                updates += [refused] if refused else []
            elif isinstance(message, Abort):
                updates += self.scheduler.abort(message.request_ids)
            message = self._inbox.receive(wait=False)
        return True

    def _answer(self, updates: list[RequestUpdate]) -> None:
        self._send(StepUpdates(updates=updates, stats=self.scheduler.stats()))
