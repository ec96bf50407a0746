"""What the scheduler tells the runner about one step, and what the runner answers.

Rows are permanent places of the runner, `0 … max_num_seqs - 1`: a request keeps its row, with its tokens, block
tables and sampling parameters, while it runs. The scheduler never sees logits and does not need a token's value to
plan the next step, so a step can be planned while the one before still runs.
"""

from typing import Literal

from msgspec import Struct

from octavo.sampling_params import SamplingParams
from octavo_api.settings import BLOCK_SIZE


class LayerGroup(Struct, frozen=True, kw_only=True):
    """Layers whose KV cache is kept for the same tokens and so share block tables.

    `window` is the number of tokens a query attends to, itself included; 0 for full attention.
    """

    kind: Literal["full", "sliding_window"]
    window: int
    layers: tuple[int, ...]
    num_kv_heads: int
    head_size: int

    def first_block(self, position: int) -> int:
        """Index in the block table of the first block that a query at `position` attends to."""
        return max(0, position - self.window + 1) // BLOCK_SIZE if self.window else 0

    def peak_blocks(self, tokens: int, chunk: int) -> int:
        """The most blocks that a sequence of `tokens` tokens holds at once when a step computes at most `chunk` of them."""
        blocks = -(-tokens // BLOCK_SIZE)
        return min(blocks, -(-(self.window + chunk - 2) // BLOCK_SIZE) + 1) if self.window else blocks


class NewRow(Struct, kw_only=True):
    """A request enters a row: for the first time, or again after a preemption.

    `token_ids` are prompt and, after a preemption, answer so far. `num_prompt_tokens` tells them apart.
    `eos_token_ids` end the answer unless `sampling.ignore_eos`; the sampler keeps them away before `min_tokens`.
    """

    row: int
    request_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    eos_token_ids: tuple[int, ...] = ()


class ScheduledRow(Struct, kw_only=True):
    """One request's share of a step: tokens `start … start + length - 1` of its row are computed.

    `new_blocks[g]` are appended to the row's block table of layer group g. With `samples` the step computes the last
    known token of the row, and one token is sampled and appended to it.
    """

    row: int
    start: int
    length: int
    samples: bool
    new_blocks: list[list[int]]


class BlockCopy(Struct, frozen=True, kw_only=True):
    """Copy a block's KV content before the step: copy-on-write of a shared block."""

    group: int
    source: int
    target: int


class SchedulerOutput(Struct, kw_only=True):
    """One step. Rows in `freed` are left before rows in `new` are entered; `scheduled` is the batch in order."""

    freed: list[int]
    new: list[NewRow]
    copies: list[BlockCopy]
    scheduled: list[ScheduledRow]


class ModelRunnerOutput(Struct, kw_only=True):
    """Sampled token ids, one for each `ScheduledRow` with `samples`, in that order."""

    token_ids: list[int]
