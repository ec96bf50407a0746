"""The memory that the KV cache lies in, the same on every device: a pair of tensors a layer, and the copies of shared blocks."""

from collections.abc import Sequence

import torch

from octavo.core.schedule import BlockCopy, LayerGroup
from octavo.models.batch import KVCaches
from octavo.ops.copy_blocks import copy_blocks
from octavo_api.settings import BLOCK_SIZE


def block_bytes(group: LayerGroup, dtype: torch.dtype) -> int:
    """Keys and values of one block in all layers of its group."""
    return 2 * len(group.layers) * group.num_kv_heads * BLOCK_SIZE * group.head_size * dtype.itemsize


def make_kv_caches(groups: Sequence[LayerGroup], num_blocks: Sequence[int], dtype: torch.dtype, device: torch.device) -> KVCaches:
    """`num_blocks[g]` blocks for each layer of group g, the null block among them. Zeros: what stands for a block that
    nobody has must be numbers."""
    caches = {}
    for group, count in zip(groups, num_blocks, strict=True):
        shape = (count, group.num_kv_heads, BLOCK_SIZE, group.head_size)
        for layer in group.layers:
            caches[layer] = (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
    return [caches[layer] for layer in range(len(caches))]


def longest_sequence(groups: Sequence[LayerGroup], num_blocks: Sequence[int], positions: int) -> int:
    """Tokens that a row may get: as many as there are positions, and as the groups that forget nothing can hold."""
    held = (count - 1 for group, count in zip(groups, num_blocks, strict=True) if not group.window)
    return min([positions, *(blocks * BLOCK_SIZE for blocks in held)])


def copy_shared_blocks(copies: Sequence[BlockCopy], groups: Sequence[LayerGroup], kv_caches: KVCaches) -> None:
    """Makes a step's copies on write in every layer."""
    for index, group in enumerate(groups):
        pairs = [(copy.source, copy.target) for copy in copies if copy.group == index]
        if pairs:
            sources, targets = zip(*pairs, strict=True)
            for layer in group.layers:
                copy_blocks(kv_caches[layer], sources, targets)
