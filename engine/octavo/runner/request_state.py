"""The runner's permanent rows: everything that a step needs to know of a running request, in arrays made once.

A step brings only what changed. The batch is gathered from the rows by index arithmetic over all of its tokens at
once, with no loop over tokens, so that the same rows can lie on a device and be gathered there from one packed copy
of the step's rows, starts and lengths.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Struct

from octavo.core.schedule import NewRow, ScheduledRow, SchedulerOutput
from octavo.models.batch import Batch, GroupBatch
from octavo.ops.paged_attention import AttentionBatch
from octavo.runner.random import request_seed
from octavo.sampling_params import SamplingParams
from octavo_api.settings import BLOCK_SIZE

Ints = npt.NDArray[np.int64]

GREEDY_BELOW = 1e-5
"""Lower temperatures are greedy: dividing logits by them overflows."""


class StepRows(Struct, frozen=True):
    """The step's batch, and for each sampled token its row and its position in the row."""

    batch: Batch
    rows: Ints
    positions: Ints


class RequestState:
    """Rows `0 … rows - 1`. Sampling parameters are arrays by row, to be indexed by a step's sampled rows.

    Attributes:
        tokens: [rows, max_len]; a row's prompt and answer so far.
        num_prompt_tokens, num_tokens: [rows].
        temperature, top_k, top_p, min_p: [rows]; temperature 0 is greedy, top_k 0 all.
        repetition, presence, frequency: [rows]; penalties, neutral at 1, 0, 0.
        seeds: [rows] uint64.
        barred_until: [rows]; the number of tokens below which a row's `enders` may not be sampled.
        enders: a row's end-of-sequence and stop tokens.
        penalised: [rows]; whether any of the penalties is not neutral.
    """

    def __init__(self, rows: int, max_len: int, num_groups: int, seed: int) -> None:
        """`seed` is the engine's, for requests that bring none."""
        blocks = -(-max_len // BLOCK_SIZE)
        self._seed = seed
        self._tables = [np.zeros((rows, blocks), np.int32) for _ in range(num_groups)]
        self._table_lens = np.zeros((num_groups, rows), np.int64)
        self.tokens = np.zeros((rows, max_len), np.int32)
        self.num_prompt_tokens = np.zeros(rows, np.int64)
        self.num_tokens = np.zeros(rows, np.int64)
        self.temperature, self.top_p, self.min_p = (np.zeros(rows, np.float32) for _ in range(3))
        self.repetition, self.presence, self.frequency = (np.zeros(rows, np.float32) for _ in range(3))
        self.top_k = np.zeros(rows, np.int64)
        self.seeds = np.zeros(rows, np.uint64)
        self.barred_until = np.zeros(rows, np.int64)
        self.enders: list[tuple[int, ...]] = [()] * rows
        self.penalised = np.zeros(rows, np.bool_)

    def apply(self, step: SchedulerOutput) -> None:
        """Takes in new rows and new blocks. A freed row needs nothing: entering it again overwrites it."""
        for new in step.new:
            self._enter(new)
        for share in step.scheduled:
            self._append_blocks(share)

    def gather(self, scheduled: Sequence[ScheduledRow]) -> StepRows:
        """The batch of a step whose changes are applied."""
        shares = np.array([(share.row, share.start, share.length, share.samples) for share in scheduled], np.int64)
        rows, starts, lengths, samples = np.ascontiguousarray(shares.T)
        ends = starts + lengths
        query_start = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=query_start[1:])
        token_rows = np.repeat(rows, lengths)
        positions = np.arange(query_start[-1]) + np.repeat(starts - query_start[:-1], lengths)
        blocks, offsets = positions // BLOCK_SIZE, positions % BLOCK_SIZE
        query_start_32, context_lens = torch.from_numpy(query_start.astype(np.int32)), torch.from_numpy(ends.astype(np.int32))
        num_blocks = -(-int(ends.max()) // BLOCK_SIZE)
        groups = tuple(
            GroupBatch(
                slots=torch.from_numpy(table[token_rows, blocks].astype(np.int64) * BLOCK_SIZE + offsets),
                attention=AttentionBatch(torch.from_numpy(table[rows, :num_blocks]), query_start_32, context_lens),
            )
            for table in self._tables
        )
        sampled = np.flatnonzero(samples)
        batch = Batch(
            token_ids=torch.from_numpy(self.tokens[token_rows, positions].astype(np.int64)),
            positions=torch.from_numpy(positions),
            groups=groups,
            sampled=torch.from_numpy(query_start[1:][sampled] - 1),
        )
        return StepRows(batch=batch, rows=rows[sampled], positions=ends[sampled])

    def append(self, rows: Ints, token_ids: Ints) -> None:
        """Appends a sampled token to each of the rows."""
        self.tokens[rows, self.num_tokens[rows]] = token_ids
        self.num_tokens[rows] += 1

    def _enter(self, new: NewRow) -> None:
        row, count = new.row, len(new.token_ids)
        self.tokens[row, :count] = new.token_ids
        self.num_tokens[row] = count
        self.num_prompt_tokens[row] = new.num_prompt_tokens
        self._table_lens[:, row] = 0
        self._set_sampling(row, new.sampling)
        self.seeds[row] = request_seed(new.sampling.seed, self._seed, new.request_id)
        ends_at_eos = () if new.sampling.ignore_eos else new.eos_token_ids
        self.enders[row] = (*ends_at_eos, *new.sampling.stop_token_ids)
        self.barred_until[row] = new.num_prompt_tokens + new.sampling.min_tokens if self.enders[row] else 0

    def _set_sampling(self, row: int, sampling: SamplingParams) -> None:
        self.temperature[row] = sampling.temperature if sampling.temperature >= GREEDY_BELOW else 0.0
        self.top_k[row] = max(0, sampling.top_k)
        self.top_p[row], self.min_p[row] = sampling.top_p, sampling.min_p
        penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
        self.repetition[row], self.presence[row], self.frequency[row] = penalties
        self.penalised[row] = penalties != (1.0, 0.0, 0.0)

    def _append_blocks(self, share: ScheduledRow) -> None:
        for group, blocks in enumerate(share.new_blocks):
            if blocks:
                begin = self._table_lens[group, share.row]
                self._tables[group][share.row, begin : begin + len(blocks)] = blocks
                self._table_lens[group, share.row] += len(blocks)
