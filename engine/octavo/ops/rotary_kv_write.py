"""Rotary position embedding (arXiv:2104.09864) of queries and keys, and the write of keys and values to the KV cache."""

from typing import NamedTuple

import torch
from torch import Tensor

from octavo import _C
from octavo.ops import checks, dispatch
from octavo.ops.rms_norm import rms_norm
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
    places = _places(qkv, (cos_sin, positions, slots), kv_cache)
    shape = places.shape
    found = dispatch.kernels(qkv[0], shape[3] // 2) if dispatch.heads_fit(shape[3], shape[1], shape[2]) else None
    if found is None:
        reference(qkv, cos_sin, positions, slots, kv_cache)
        return
    kernels, code, stream = found
    kernels.rotary_kv_write(*places, code, stream)


class HeadNorms(NamedTuple):
    """RMSNorm of each head: the weights [D] of queries and keys, dtype of q, and what is added to the mean square."""

    query: Tensor
    key: Tensor
    eps: float


def norm_rotary_kv_write(
    qkv: tuple[Tensor, Tensor, Tensor], norms: HeadNorms, tables: tuple[Tensor, Tensor, Tensor], kv_cache: tuple[Tensor, Tensor]
) -> Tensor:
    """As `rotary_kv_write`, after each head of q and k was normalised. `tables` are cos_sin, positions and slots.

    Returns:
        The rotated queries, [T, Hq, D]; `qkv` may have been overwritten.
    """
    q, k, v = qkv
    if not (q.is_cuda and dispatch.HAS_CUDA and q.shape[2] in _POWERS_OF_TWO):
        q, k = rms_norm(q, norms.query, norms.eps), rms_norm(k, norms.key, norms.eps)
        rotary_kv_write((q, k, v), *tables, kv_cache)
        return q
    places = _places(qkv, tables, kv_cache)
    found = dispatch.kernels(q)
    if found is None:
        raise ValueError(f"norm_rotary_kv_write: no kernel for {q.dtype}")
    weights = tuple(checks.address("norm_rotary_kv_write: a norm", weight, (q.shape[2],), q.dtype) for weight in norms[:2])
    _C.cuda.norm_rotary_kv_write(*places, (weights[0], weights[1]), norms.eps, *found[1:])
    return q


_POWERS_OF_TWO = (64, 128, 256)
"""Head sizes of which a group of lanes within a warp takes a head."""


class _Places(NamedTuple):
    """Addresses, strides and sizes, as the kernels take them."""

    qkv: tuple[int, int, int]
    strides: tuple[int, int, int]
    tables: tuple[int, int, int]
    kv_cache: tuple[int, int]
    shape: tuple[int, int, int, int, int, int]


def _places(qkv: tuple[Tensor, Tensor, Tensor], tables: tuple[Tensor, Tensor, Tensor], kv_cache: tuple[Tensor, Tensor]) -> _Places:
    q, k, v = qkv
    cos_sin, positions, slots = tables
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
    return _Places((q_at, k_at, v_at), (q_stride, k_stride, v_stride), tables_at, cache_at, (tokens, query_heads, kv_heads, size, angles, blocks))


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
