"""A scheduler's step as one array of int32: the form in which it crosses to a GPU, in one copy.

It begins with what every step has, at places that do not depend on the step, so that a CUDA graph can read it there;
records of what is new in a row follow. `csrc/cuda/step.cu` reads it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from octavo import _C
from octavo.core.schedule import NewRow, ScheduledRow
from octavo.runner.random import request_seed

Words = npt.NDArray[np.int32]

GREEDY_BELOW = 1e-5
"""Lower temperatures are greedy: dividing logits by them overflows."""

_PARAMETERS, _TOKENS, _BLOCKS = range(3)


class PackedStep:
    """Writes steps into `words`, an array that a copy engine can read, for `rows` rows.

    The row after the last is nobody's: a graph's unused places compute it.
    """

    def __init__(self, words: Words, rows: int) -> None:
        self.words = words
        self._rows = rows
        places = np.cumsum([0, rows, rows, rows + 1, rows, rows, rows])
        self.header = int(places[-1])
        self._places: dict[str, int] = dict(zip(("rows", "starts", "query_start", "sample_rows", "sample_positions", "sampled"), places.tolist(), strict=False))
        self._end = self.header
        self._records: list[int] = []

    @staticmethod
    def capacity(rows: int, groups: int) -> int:
        """Words that any step's fixed part takes, with room for records."""
        return 6 * rows + 1 + (1 << 18) + 16 * rows * groups

    def place(self, name: str) -> int:
        """The word at which a fixed part begins."""
        return self._places[name]

    def write_shares(self, shares: Sequence[ScheduledRow], samples: Sequence[int], padded: int) -> None:
        """The batch in order, filled up to `padded` sequences with nobody's row; `samples` are indices of shares."""
        words, count = self.words, len(shares)
        table = np.array([(share.row, share.start, share.length) for share in shares], np.int32).reshape(count, 3)
        rows, starts, query_start = (self._places[name] for name in ("rows", "starts", "query_start"))
        words[rows : rows + padded] = self._rows
        words[rows : rows + count] = table[:, 0]
        words[starts : starts + padded] = 0
        words[starts : starts + count] = table[:, 1]
        lengths = np.ones(padded, np.int32)
        lengths[:count] = table[:, 2]
        words[query_start] = 0
        np.cumsum(lengths, out=words[query_start + 1 : query_start + 1 + padded])
        self._write_samples(table, np.asarray(samples, np.int64), padded - count)

    def _write_samples(self, table: Words, samples: npt.NDArray[np.int64], more: int) -> None:
        words, count = self.words, len(samples)
        rows, positions, sampled, query_start = (self._places[name] for name in ("sample_rows", "sample_positions", "sampled", "query_start"))
        words[rows : rows + count] = table[samples, 0]
        words[positions : positions + count] = table[samples, 1] + table[samples, 2]
        words[sampled : sampled + count] = words[query_start + 1 + samples] - 1
        if more:
            words[rows + count : rows + count + more] = self._rows
            words[positions + count : positions + count + more] = 1
            words[sampled + count : sampled + count + more] = words[query_start + 1 + len(table) : query_start + 1 + len(table) + more] - 1

    def begin_records(self) -> None:
        self._end = self.header
        self._records = []

    @property
    def num_records(self) -> int:
        return len(self._records)

    def finish_records(self) -> tuple[int, int]:
        """Writes where the records are; returns the word at which that begins, and the end of all words."""
        begin, self._end = self._end, self._end + len(self._records)
        self.words[begin : self._end] = self._records
        return begin, self._end

    def add_parameters(self, new: NewRow, engine_seed: int) -> bool:
        """Whether there was room; likewise below."""
        return self._add((_PARAMETERS, new.row), row_parameters(new, engine_seed))

    def add_tokens(self, row: int, first: int, token_ids: Sequence[int]) -> bool:
        return self._add((_TOKENS, row, first, len(token_ids)), token_ids)

    def add_blocks(self, entries: Words) -> bool:
        """`entries` [N, 4]: group, row, index in the row's table, block."""
        return self._add((_BLOCKS, len(entries)), entries.reshape(-1))

    @property
    def room(self) -> int:
        """Words that one more record may have beside its head."""
        return len(self.words) - self._end - len(self._records) - 8

    def _add(self, head: tuple[int, ...], content: Sequence[int] | Words) -> bool:
        if len(content) > self.room:
            return False
        begin, middle = self._end, self._end + len(head)
        self._end = middle + len(content)
        self.words[begin:middle] = head
        self.words[middle : self._end] = content
        self._records.append(begin)
        return True


def row_parameters(new: NewRow, engine_seed: int) -> Words:
    """A row's sampling parameters as `csrc/cuda/step.h` lays them out."""
    sampling = new.sampling
    words = np.zeros(_C.cuda.ROW_PARAMETERS, np.int32)
    temperature = sampling.temperature if sampling.temperature >= GREEDY_BELOW else 0.0
    penalties = (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty)
    words.view(np.float32)[:6] = (temperature, sampling.top_p, sampling.min_p, *penalties)
    words[6:8] = (max(0, sampling.top_k), new.num_prompt_tokens)
    words[8:10] = np.array([request_seed(sampling.seed, engine_seed, new.request_id)], np.uint64).view(np.int32)
    enders = (*(() if sampling.ignore_eos else new.eos_token_ids), *sampling.stop_token_ids)
    if sampling.min_tokens and enders:
        enders = enders[: _C.cuda.ROW_ENDERS]  # SamplingParams bounds stop tokens; no model has more ends than are left
        words[10:12] = (new.num_prompt_tokens + sampling.min_tokens, len(enders))
        words[12 : 12 + len(enders)] = enders
    return words
