"""The permanent rows of requests in a GPU's memory, and the batch that is gathered from them there.

A step crosses in one copy (`packed_step`); the tokens that it samples are written to their rows on the device, so that
the next step can be begun before the host knows them.
"""

import numpy as np
import torch
from torch import Tensor

from octavo import _C
from octavo.core.schedule import LayerGroup, ScheduledRow, SchedulerOutput
from octavo.models.batch import Batch, GroupBatch
from octavo.ops.decode_plan import DecodePlan
from octavo.ops.paged_attention import AttentionBatch
from octavo.runner.packed_step import PackedStep, Words
from octavo_api.settings import BLOCK_SIZE

_BLOCKS_OF_A_RECORD = 1024
_BUFFERS = 3
"""Packed steps that may be on their way to the device."""


class DeviceState:
    """Rows `0 … rows - 1` of up to `max_len` tokens, and buffers for steps of up to `max_tokens`.

    Attributes:
        token_ids: [rows] int32, what the latest step sampled.
    """

    def __init__(self, shape: tuple[int, int, int], groups: tuple[LayerGroup, ...], query_heads: int, seed: int, device: torch.device) -> None:
        """`shape`: rows, max_len, max_tokens; `seed` is the engine's, for requests that bring none."""
        self.rows, max_len, self._max_tokens = shape
        rows, blocks = self.rows, -(-max_len // BLOCK_SIZE)
        self._device = device
        self._seed = seed
        self.token_ids = torch.zeros(rows, dtype=torch.int32, device=device)
        self._tokens = torch.zeros(rows + 1, max_len, dtype=torch.int32, device=device)
        self._parameters = torch.zeros(rows + 1, _C.cuda.ROW_PARAMETERS, dtype=torch.int32, device=device)
        self._parameters.view(torch.float32)[:, [1, 3]] = 1.0  # top_p and repetition penalty are neutral at 1
        self._tables = torch.zeros(len(groups), rows + 1, blocks, dtype=torch.int32, device=device)
        self._table_lens = [[0] * rows for _ in groups]
        self._token_ids, self._positions = (torch.zeros(self._max_tokens, dtype=torch.int64, device=device) for _ in range(2))
        self._slots = torch.zeros(len(groups), self._max_tokens, dtype=torch.int64, device=device)
        self._block_tables = torch.zeros(len(groups), rows, blocks, dtype=torch.int32, device=device)
        self._query_start, self._context_lens = (torch.zeros(rows + 1, dtype=torch.int32, device=device) for _ in range(2))
        self.plans = [DecodePlan(rows, (query_heads, group.num_kv_heads, group.head_size), group.window, device) for group in groups]
        words = PackedStep.capacity(rows, len(groups))
        self._step = torch.zeros(words, dtype=torch.int32, device=device)
        self._buffers = [torch.zeros(words, dtype=torch.int32, pin_memory=True) for _ in range(_BUFFERS)]
        self._packers = [PackedStep(buffer.numpy(), rows) for buffer in self._buffers]
        self._copied = [torch.cuda.Event() for _ in self._buffers]  # type: ignore[no-untyped-call]
        self._next = 0
        self._batch_addresses = (
            self._token_ids.data_ptr(),
            self._positions.data_ptr(),
            self._slots.data_ptr(),
            self._block_tables.data_ptr(),
            self._query_start.data_ptr(),
            self._context_lens.data_ptr(),
        )
        self._row_tensors = (self._tokens.data_ptr(), self._parameters.data_ptr(), self._tables.data_ptr())
        self._row_shape = (rows + 1, max_len, blocks, len(groups))

    def send(self, step: SchedulerOutput, shares: list[ScheduledRow], samples: list[int], padded: int) -> None:
        """Takes in a step: `shares` are its scheduled rows in the order of the batch, `samples` those of them that
        sample, in the order of the answer, `padded` the sequences that will be computed."""
        packer = self._packer()
        for new in step.new:
            for lens in self._table_lens:
                lens[new.row] = 0
            while not packer.add_parameters(new, self._seed):
                packer = self._flush()
            begin = 0
            while begin < len(new.token_ids):
                part = new.token_ids[begin : begin + max(packer.room, 0)]
                if part and packer.add_tokens(new.row, begin, part):
                    begin += len(part)
                else:
                    packer = self._flush()
        entries = self._new_blocks(step.scheduled)
        for begin in range(0, len(entries), _BLOCKS_OF_A_RECORD):
            while not packer.add_blocks(entries[begin : begin + _BLOCKS_OF_A_RECORD]):
                packer = self._flush()
        packer.write_shares(shares, samples, padded)
        self._flush()

    def gather(self, sequences: int, tokens: int, decodes: int, samples: int) -> Batch:
        """The batch of the step that was sent. The first `decodes` sequences compute one token each."""
        stream = torch.cuda.current_stream(self._device).cuda_stream
        at = self._step.data_ptr()
        _C.cuda.gather_step(self._row_tensors, self._row_shape, at, (self.rows, sequences), self._batch_addresses, self._max_tokens, stream)
        groups = []
        for index, plan in enumerate(self.plans):
            if decodes:
                plan.make(self._context_lens, decodes)
            attention = AttentionBatch(
                self._block_tables[index, :sequences], self._query_start[: sequences + 1], self._context_lens[:sequences], num_decodes=decodes, plan=plan
            )
            groups.append(GroupBatch(slots=self._slots[index, :tokens], attention=attention))
        sampled = self._part("sampled", samples)
        return Batch(token_ids=self._token_ids[:tokens], positions=self._positions[:tokens], groups=tuple(groups), sampled=sampled)

    def sample(self, logits: Tensor) -> None:
        """Chooses a token for each row of `logits` [N, V] bfloat16, the step's samples, and appends it to its row."""
        count, vocabulary = logits.shape
        rows, positions = self._part("sample_rows", count), self._part("sample_positions", count)
        addresses = (logits.data_ptr(), rows.data_ptr(), positions.data_ptr(), self.token_ids.data_ptr())
        stream = torch.cuda.current_stream(self._device).cuda_stream
        _C.cuda.sample(self._row_tensors, self._row_shape, addresses, (count, vocabulary), stream)

    def _new_blocks(self, scheduled: list[ScheduledRow]) -> Words:
        """[N, 4] int32: group, row, index and block of each block that a row gets."""
        found = []
        for share in scheduled:
            for group, blocks in enumerate(share.new_blocks):
                if blocks:
                    lens = self._table_lens[group]
                    first = lens[share.row]
                    lens[share.row] = first + len(blocks)
                    found += [(group, share.row, first + index, block) for index, block in enumerate(blocks)]
        return np.array(found, np.int32).reshape(-1, 4)

    def _part(self, name: str, count: int) -> Tensor:
        begin = self._packers[0].place(name)
        return self._step[begin : begin + count]

    def _packer(self) -> PackedStep:
        self._copied[self._next].synchronize()
        packer = self._packers[self._next]
        packer.begin_records()
        return packer

    def _flush(self) -> PackedStep:
        """Sends what is packed and has the rows take it in; returns the next packer."""
        index, packer = self._next, self._packers[self._next]
        begin, end = packer.finish_records()
        self._step[:end].copy_(self._buffers[index][:end], non_blocking=True)
        self._copied[index].record()
        stream = torch.cuda.current_stream(self._device).cuda_stream
        _C.cuda.apply_step(self._row_tensors, self._row_shape, self._step.data_ptr(), (packer.num_records, begin), stream)
        self._next = (index + 1) % _BUFFERS
        return self._packer()
