"""A toy model that breaks when a block table is wrong; the core's tests run on it in place of weights and kernels.

`ToyExecutor` runs it in an engine process. Its model folder holds a toy.json with keywords for `ToyExecutor.Faults`.
"""

import json
import time
from collections import deque
from pathlib import Path

from msgspec import Struct, convert

from octavo.core.schedule import LayerGroup, ModelRunnerOutput, ScheduledRow, SchedulerOutput
from octavo.executor.protocol import ModelFacts, ProgressCallback
from octavo_api.errors import ModelUnavailable
from octavo_api.settings import BLOCK_SIZE, EngineSettings

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
        assert share.length > 0, "a share without a token to compute"
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


class ToyExecutor:
    """An `Executor` on the toy runner, with faults on demand."""

    class Faults(Struct, forbid_unknown_fields=True):
        """`crash_on`: a step that samples this token raises. `hang_on`: one that samples this token never ends.
        `refuse`: loading fails. Times in seconds."""

        crash_on: int = -1
        hang_on: int = -1
        refuse: str = ""
        step_time: float = 0.0
        load_time: float = 0.0

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self.faults = convert(json.loads((model / "toy.json").read_text()), self.Faults)
        self.settings = settings
        self.runner: ToyRunner | None = None
        self.begun: deque[SchedulerOutput] = deque()

    def load(self, progress: ProgressCallback) -> ModelFacts:
        progress(0, 100)
        time.sleep(self.faults.load_time)
        if self.faults.refuse:
            raise ModelUnavailable("ModelInvalid", self.faults.refuse)
        progress(100, 100)
        return ModelFacts(
            groups=(FULL, WINDOW),
            block_bytes=(1024, 512),
            kv_bytes=self.settings.kv_cache_memory_bytes or 1 << 20,
            max_model_len=1024,
            max_num_batched_tokens=self.settings.max_num_batched_tokens or 64,
            vocab_size=VOCABULARY,
            dtype="float32",
        )

    def allocate(self, num_blocks: tuple[int, ...]) -> None:
        self.runner = ToyRunner((FULL, WINDOW), num_blocks, self.settings.max_num_seqs)

    steps_in_flight = 2

    def begin(self, step: SchedulerOutput) -> None:
        self.begun.append(step)

    def finish(self) -> ModelRunnerOutput:
        assert self.runner is not None
        step = self.begun.popleft()
        time.sleep(self.faults.step_time)
        output = self.runner.execute(step)
        if self.faults.crash_on in output.token_ids:
            raise RuntimeError("the toy breaks as asked")
        if self.faults.hang_on in output.token_ids:
            time.sleep(3600)
        return output

    def shutdown(self) -> None:
        self.runner = None
