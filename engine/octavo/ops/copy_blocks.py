"""Copies whole KV cache blocks: copy-on-write of blocks that several requests share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from octavo.ops import dispatch


def copy_blocks(kv_cache: tuple[Tensor, Tensor], sources: Sequence[int], targets: Sequence[int]) -> None:
    """Copies block `sources[i]` over block `targets[i]` in one layer's keys and values, each [num_blocks, Hkv, 16, D], contiguous.

    Targets are distinct, and none of them is also a source.

    Raises:
        ValueError: shapes or strides do not fit, or there are more sources than targets or fewer.
        IndexError: on the CPU, a block is not in the cache.
    """
    keys, values = kv_cache
    if len(sources) != len(targets):
        raise ValueError(f"copy_blocks: {len(sources)} sources for {len(targets)} targets")
    if keys.shape != values.shape or keys.dtype != values.dtype or not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError(f"copy_blocks: keys {list(keys.shape)} and values {list(values.shape)} must be contiguous and alike")
    found = dispatch.kernels(keys)
    if found is None:
        reference(kv_cache, sources, targets)
        return
    kernels, _, stream = found
    pairs = torch.tensor([sources, targets], dtype=torch.int64, device=keys.device)
    shape = (len(sources), keys.shape[0], keys[0].numel() * keys.element_size())
    kernels.copy_blocks((keys.data_ptr(), values.data_ptr()), pairs.data_ptr(), shape, stream)


def reference(kv_cache: tuple[Tensor, Tensor], sources: Sequence[int], targets: Sequence[int]) -> None:
    """The same in plain torch."""
    for cache in kv_cache:
        cache[list(targets)] = cache[list(sources)]
