"""What the core's tests share: layer groups, requests, and a scheduler on the toy model of toy_model.py.

Helper classes come through fixtures, because test folders are not packages.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.core.kv_cache import KVCache
from octavo.core.messages import EngineRequest, RequestUpdate
from octavo.core.schedule import LayerGroup, SchedulerOutput
from octavo.core.scheduler import Scheduler, SchedulerLimits
from octavo.sampling_params import SamplingParams

sys.path.insert(0, str(Path(__file__).parent))
from toy_model import FULL, VOCABULARY, WINDOW, ToyRunner, next_token


class Engine:
    """Scheduler and toy runner in lockstep; keeps every update by request."""

    def __init__(
        self,
        groups: tuple[LayerGroup, ...] = (FULL,),
        blocks: int = 65,
        *,
        seqs: int = 8,
        budget: int = 64,
        context: int = 128,
        prefix_caching: bool = True,
    ) -> None:
        num_blocks = (blocks,) * len(groups)
        self.kv = KVCache(groups, num_blocks, budget, prefix_caching)
        limits = SchedulerLimits(max_num_seqs=seqs, max_num_batched_tokens=budget, max_model_len=context, vocab_size=VOCABULARY)
        self.scheduler = Scheduler(limits, self.kv)
        self.runner = ToyRunner(groups, num_blocks, seqs)
        self.updates: dict[str, list[RequestUpdate]] = {}

    def collect(self, updates: list[RequestUpdate]) -> None:
        for update in updates:
            self.updates.setdefault(update.request_id, []).append(update)

    def add(self, *requests: EngineRequest) -> None:
        for request in requests:
            refused = self.scheduler.add(request)
            if refused is not None:
                self.collect([refused])

    def step(self) -> SchedulerOutput:
        step = self.scheduler.schedule()
        if step.scheduled:
            self.collect(self.scheduler.update(step, self.runner.execute(step)))
        return step

    def finish(self) -> None:
        while self.scheduler.has_work:
            assert self.step().scheduled, "there is work and a step does none of it"

    def answer(self, request_id: str) -> list[int]:
        return [token for update in self.updates[request_id] for token in update.new_token_ids]

    def last(self, request_id: str) -> RequestUpdate:
        return self.updates[request_id][-1]


@pytest.fixture(scope="session")
def full() -> LayerGroup:
    return FULL


@pytest.fixture(scope="session")
def window() -> LayerGroup:
    """A window of 24 tokens: a block and a half."""
    return WINDOW


@pytest.fixture(scope="session")
def make_engine() -> type[Engine]:
    return Engine


@pytest.fixture(scope="session")
def continuation() -> Callable[[list[int], int], list[int]]:
    """What the toy model answers to a prompt, computed without any engine."""

    def run(prompt: list[int], count: int) -> list[int]:
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(next_token(tokens))
        return tokens[len(prompt) :]

    return run


RequestMaker = Callable[..., EngineRequest]


@pytest.fixture
def make_request() -> RequestMaker:
    """Builds requests `r0`, `r1`, …, each arriving after the one before; other keywords are sampling parameters."""
    count = 0

    def build(prompt: list[int] | int, *, priority: int = 0, eos: tuple[int, ...] = (), salt: str = "", **sampling: object) -> EngineRequest:
        nonlocal count
        count += 1
        return EngineRequest(
            request_id=f"r{count - 1}",
            prompt_token_ids=[token % VOCABULARY for token in range(prompt)] if isinstance(prompt, int) else prompt,
            sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
            eos_token_ids=eos,
            priority=priority,
            arrival=float(count),
            cache_salt=salt,
        )

    return build
