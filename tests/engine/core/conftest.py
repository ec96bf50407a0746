"""What the core's tests share: layer groups, requests, and a toy model that breaks when a block table is wrong.

Helper classes come through fixtures, because test folders are not packages.
"""

from collections.abc import Callable

import pytest

from octavo.core.kv_cache import KVCache
from octavo.core.messages import EngineRequest, RequestUpdate
from octavo.core.schedule import LayerGroup, ModelRunnerOutput, ScheduledRow, SchedulerOutput
from octavo.core.scheduler import Scheduler, SchedulerLimits
from octavo.sampling_params import SamplingParams
from octavo_api.settings import BLOCK_SIZE

FULL = LayerGroup(kind="full", window=0, layers=(0,), num_kv_heads=1, head_size=8)
WINDOW = LayerGroup(kind="sliding_window", window=24, layers=(1,), num_kv_heads=1, head_size=8)
VOCABULARY = 97


def next_token(tokens: list[int]) -> int:
    """A token that depends on every token before it."""
    value = 7
    for token in tokens:
        value = (value * 31 + token + 1) % 1_000_003
    return value % VOCABULARY


class ToyRunner:
    """Keeps the runner's side of the contract with a KV cache of plain (position, token) pairs.

    Each query must find its own row's tokens in the slots that the block tables name, as far as the window of the
    layer group reaches; a step that leaves a row with a foreign, stale or missing slot fails.
    """

    def __init__(self, groups: tuple[LayerGroup, ...], num_blocks: tuple[int, ...], rows: int) -> None:
        self.groups = groups
        self.num_rows = rows
        self.caches: list[list[tuple[int, int] | None]] = [[None] * (count * BLOCK_SIZE) for count in num_blocks]
        self.tokens: dict[int, list[int]] = {}
        self.tables: dict[int, list[list[int]]] = {}

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        for row in step.freed:
            del self.tokens[row], self.tables[row]
        for new in step.new:
            assert 0 <= new.row < self.num_rows
            assert new.row not in self.tokens, "a row is entered twice"
            self.tokens[new.row] = list(new.token_ids)
            self.tables[new.row] = [[] for _ in self.groups]
        for copy in step.copies:
            cache, source, target = self.caches[copy.group], copy.source * BLOCK_SIZE, copy.target * BLOCK_SIZE
            cache[target : target + BLOCK_SIZE] = cache[source : source + BLOCK_SIZE]
        for share in step.scheduled:
            for table, blocks in zip(self.tables[share.row], share.new_blocks, strict=True):
                table.extend(blocks)
            self._write(share)
        for share in step.scheduled:
            self._read(share)
        return ModelRunnerOutput(token_ids=[self._sample(share) for share in step.scheduled if share.samples])

    def _write(self, share: ScheduledRow) -> None:
        for cache, table in zip(self.caches, self.tables[share.row], strict=True):
            for position in range(share.start, share.start + share.length):
                block = table[position // BLOCK_SIZE]
                assert block != 0, "KV is written to the null block"
                cache[block * BLOCK_SIZE + position % BLOCK_SIZE] = (position, self.tokens[share.row][position])

    def _read(self, share: ScheduledRow) -> None:
        for group, cache, table in zip(self.groups, self.caches, self.tables[share.row], strict=True):
            first = max(0, share.start - group.window + 1) if group.window else 0
            for position in range(first, share.start + share.length):
                seen = cache[table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE]
                assert seen == (position, self.tokens[share.row][position]), f"row {share.row} finds {seen} at position {position}"

    def _sample(self, share: ScheduledRow) -> int:
        tokens = self.tokens[share.row]
        assert share.start + share.length == len(tokens), "a row samples before its last token is computed"
        tokens.append(next_token(tokens))
        return tokens[-1]


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
            prompt_token_ids=list(range(prompt)) if isinstance(prompt, int) else prompt,
            sampling=SamplingParams(**sampling),  # type: ignore[arg-type]
            eos_token_ids=eos,
            priority=priority,
            arrival=float(count),
            cache_salt=salt,
        )

    return build
