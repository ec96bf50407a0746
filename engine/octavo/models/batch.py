"""What one forward pass computes on, and where it finds and leaves the KV cache."""

from msgspec import Struct
from torch import Tensor

from octavo.ops.paged_attention import AttentionBatch

KVCaches = list[tuple[Tensor, Tensor]]
"""For each layer its keys and values, each [num_blocks, Hkv, 16, D]."""


class GroupBatch(Struct, frozen=True):
    """A layer group's share: `slots` [T] int64, where each token's keys and values are written, and the tables to read by."""

    slots: Tensor
    attention: AttentionBatch


class Batch(Struct, frozen=True):
    """T tokens of several sequences: `token_ids` and `positions` [T] int64, one `groups` entry a layer group, and
    `sampled` [S] int64, the tokens whose logits are wanted."""

    token_ids: Tensor
    positions: Tensor
    groups: tuple[GroupBatch, ...]
    sampled: Tensor
