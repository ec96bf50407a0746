"""Rotary position embedding (arXiv:2104.09864) of queries and keys, and the write of keys and values to the KV cache."""

import torch
from torch import Tensor

from octavo.ops import dispatch
from octavo_api.settings import BLOCK_SIZE


def rotary_kv_write(qkv: tuple[Tensor, Tensor, Tensor], cos_sin: Tensor, positions: Tensor, slots: Tensor, kv_cache: tuple[Tensor, Tensor]) -> None:
    """Rotates q and k in place, component i of a head together with component i + D/2, and writes k and v to the cache.

    Args:
        qkv: q [T, Hq, D], k and v [T, Hkv, D]; float32 or bfloat16, the last two dimensions contiguous, D even.
        cos_sin: [P, D] float32: the cosines of the D/2 angles of a position, then their sines.
        positions: [T] int64, each below P.
        slots: [T] int64, each the number of a block * 16 + the offset in it.
        kv_cache: keys and values, each [num_blocks, Hkv, 16, D], contiguous, dtype of q.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
        IndexError: on the CPU, a position is not in the table or a slot not in the cache.
    """
    q, k, v = qkv
    _check(qkv, cos_sin, (positions, slots), kv_cache)
    kernels = dispatch.kernels(q) if dispatch.head_size_fits(q.shape[2]) else None
    if kernels is None:
        reference(qkv, cos_sin, positions, slots, kv_cache)
        return
    kernels.rotary_kv_write(
        (q.data_ptr(), k.data_ptr(), v.data_ptr()),
        (q.stride(0), k.stride(0), v.stride(0)),
        (cos_sin.data_ptr(), positions.data_ptr(), slots.data_ptr()),
        (kv_cache[0].data_ptr(), kv_cache[1].data_ptr()),
        (q.shape[0], q.shape[1], k.shape[1], q.shape[2], cos_sin.shape[0], kv_cache[0].shape[0]),
        *dispatch.call(q),
    )


def reference(qkv: tuple[Tensor, Tensor, Tensor], cos_sin: Tensor, positions: Tensor, slots: Tensor, kv_cache: tuple[Tensor, Tensor]) -> None:
    """The same in plain torch, in float32 inside."""
    q, k, v = qkv
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
    for x in (q, k):
        first, second = x.float().chunk(2, dim=-1)
        x.copy_(torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1))
    blocks, offsets = slots // BLOCK_SIZE, slots % BLOCK_SIZE
    kv_cache[0][blocks, :, offsets] = k
    kv_cache[1][blocks, :, offsets] = v


def _check(qkv: tuple[Tensor, Tensor, Tensor], cos_sin: Tensor, tokens: tuple[Tensor, Tensor], kv_cache: tuple[Tensor, Tensor]) -> None:
    q, k, v = qkv
    count, _, size = q.shape
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.shape != (count, x.shape[1], size) or x.dtype != q.dtype or x.stride()[1:] != (size, 1):
            raise ValueError(
                f"rotary_kv_write: {name} must be [{count}, heads, {size}] of {q.dtype} with the last two dimensions contiguous,"
                f" not {list(x.shape)} of {x.dtype} with strides {x.stride()}"
            )
    if cos_sin.shape[1:] != (size,) or cos_sin.dtype != torch.float32 or not cos_sin.is_contiguous():
        raise ValueError(f"rotary_kv_write: cos_sin must be [positions, {size}] of float32, contiguous, not {list(cos_sin.shape)} of {cos_sin.dtype}")
    for name, x in (("positions", tokens[0]), ("slots", tokens[1])):
        if x.shape != (count,) or x.dtype != torch.int64 or not x.is_contiguous():
            raise ValueError(f"rotary_kv_write: {name} must be [{count}] of int64, contiguous, not {list(x.shape)} of {x.dtype}")
    for name, x, heads in (("keys", kv_cache[0], k.shape[1]), ("values", kv_cache[1], v.shape[1])):
        if x.shape[1:] != (heads, BLOCK_SIZE, size) or x.shape != kv_cache[0].shape or x.dtype != q.dtype or not x.is_contiguous():
            raise ValueError(
                f"rotary_kv_write: the cache's {name} must be [num_blocks, {heads}, {BLOCK_SIZE}, {size}] of {q.dtype}, contiguous,"
                f" not {list(x.shape)} of {x.dtype}"
            )
