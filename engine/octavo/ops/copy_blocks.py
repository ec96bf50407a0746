"""Copies whole KV cache blocks: copy-on-write of blocks that several requests share."""

from collections.abc import Sequence

from torch import Tensor


def copy_blocks(kv_cache: tuple[Tensor, Tensor], sources: Sequence[int], targets: Sequence[int]) -> None:
    """Copies block `sources[i]` over block `targets[i]` in one layer's keys and values, each [num_blocks, Hkv, 16, D].

    Targets are distinct, and none of them is also a source.
    """
    reference(kv_cache, sources, targets)


def reference(kv_cache: tuple[Tensor, Tensor], sources: Sequence[int], targets: Sequence[int]) -> None:
    """The same in plain torch."""
    for cache in kv_cache:
        cache[list(targets)] = cache[list(sources)]
