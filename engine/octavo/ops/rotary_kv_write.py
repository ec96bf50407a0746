"""Rotary position embedding (arXiv:2104.09864) of queries and keys, and the write of keys and values to the KV cache."""

import torch
from torch import Tensor

from octavo.ops import checks, dispatch
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
    keys, values = kv_cache
    q_shape, dtype, blocks, angles = q.shape, q.dtype, keys.shape[0], cos_sin.shape[0]
    if len(q_shape) != 3:
        raise ValueError(f"rotary_kv_write: q must be [T, heads, D], not {list(q_shape)}")
    tokens, _, size = q_shape
    q_at, query_heads, q_stride = checks.heads("rotary_kv_write: q", q, (tokens, size), dtype)
    k_at, kv_heads, k_stride = checks.heads("rotary_kv_write: k", k, (tokens, size), dtype)
    v_at, _, v_stride = checks.heads("rotary_kv_write: v", v, (tokens, size), dtype)
    cache_shape = (blocks, kv_heads, BLOCK_SIZE, size)
    cache_at = (checks.address("rotary_kv_write: keys", keys, cache_shape, dtype), checks.address("rotary_kv_write: values", values, cache_shape, dtype))
    tables_at = (
        checks.address("rotary_kv_write: cos_sin", cos_sin, (angles, size), torch.float32),
        checks.address("rotary_kv_write: positions", positions, (tokens,), torch.int64),
        checks.address("rotary_kv_write: slots", slots, (tokens,), torch.int64),
    )
    found = dispatch.kernels(q) if dispatch.heads_fit(size, query_heads, kv_heads) else None
    if found is None:
        reference(qkv, cos_sin, positions, slots, kv_cache)
        return
    kernels, code, stream = found
    shape = (tokens, query_heads, kv_heads, size, angles, blocks)
    kernels.rotary_kv_write((q_at, k_at, v_at), (q_stride, k_stride, v_stride), tables_at, cache_at, shape, code, stream)


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
