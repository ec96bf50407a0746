"""Attention over a paged KV cache (arXiv:2309.06180), prefill chunks and decodes in one batch."""

import torch
from msgspec import Struct
from torch import Tensor

from octavo.ops import dispatch
from octavo_api.settings import BLOCK_SIZE


class AttentionBatch(Struct, frozen=True):
    """Which tokens of a batch belong to which sequence, and where their keys and values lie.

    `block_tables` [S, B] int32, entries past a sequence's context unused; `query_start` [S + 1] int32: sequence s has
    the tokens query_start[s] up to query_start[s + 1], its last ones; `context_lens` [S] int32: tokens of the sequence
    in the cache, those of this step included. All contiguous.
    """

    block_tables: Tensor
    query_start: Tensor
    context_lens: Tensor


def paged_attention(q: Tensor, kv_cache: tuple[Tensor, Tensor], batch: AttentionBatch, scale: float, window: int) -> Tensor:
    """Causal attention of each token to its sequence's context.

    Args:
        q: [T, Hq, D], the last two dimensions contiguous; float32 or bfloat16. Query heads in the order of the KV heads
            that they share, Hq / Hkv of them each.
        kv_cache: keys and values, each [num_blocks, Hkv, 16, D], contiguous, dtype of q.
        batch: the sequences.
        scale: of the scores, positive.
        window: tokens that a query attends to, itself included; 0 for all. Blocks before the window are not read.

    Returns:
        [T, Hq, D], a new contiguous tensor.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
        IndexError: on the CPU, a block is not in the cache, or a context is longer than its block table.
    """
    _check(q, kv_cache, batch)
    kernels = dispatch.kernels(q) if dispatch.head_size_fits(q.shape[2]) else None
    if kernels is None:
        return reference(q, kv_cache, batch, scale, window)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    keys, tables = kv_cache[0], batch.block_tables
    kernels.paged_attention(
        (out.data_ptr(), q.data_ptr(), keys.data_ptr(), kv_cache[1].data_ptr()),
        (tables.data_ptr(), batch.query_start.data_ptr(), batch.context_lens.data_ptr()),
        (q.shape[0], q.shape[1], keys.shape[1], q.shape[2], q.stride(0)),
        (tables.shape[0], tables.shape[1], keys.shape[0]),
        (scale, window),
        *dispatch.call(q),
    )
    return out


def reference(q: Tensor, kv_cache: tuple[Tensor, Tensor], batch: AttentionBatch, scale: float, window: int) -> Tensor:
    """The same in plain torch, in float32 inside, a sequence at a time."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    group = q.shape[1] // kv_cache[0].shape[1]
    starts = batch.query_start.tolist()
    for sequence, context in enumerate(batch.context_lens.tolist()):
        begin, end = starts[sequence], starts[sequence + 1]
        blocks = batch.block_tables[sequence, : -(-context // BLOCK_SIZE)].long()
        keys, values = (cache[blocks].transpose(1, 2).flatten(0, 1)[:context].float().repeat_interleave(group, dim=1) for cache in kv_cache)
        position = torch.arange(context - (end - begin), context, device=q.device).unsqueeze(1)
        key = torch.arange(context, device=q.device).unsqueeze(0)
        visible = key <= position
        if window:
            visible &= key > position - window
        scores = torch.einsum("qhd,khd->hqk", q[begin:end].float(), keys) * scale
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        read = visible.any(0)[:, None, None]
        out[begin:end] = torch.einsum("hqk,khd->qhd", weights, torch.where(read, values, 0.0)).to(q.dtype)
    return out


def _check(q: Tensor, kv_cache: tuple[Tensor, Tensor], batch: AttentionBatch) -> None:
    keys, values = kv_cache
    _, heads, size = q.shape
    if q.stride()[1:] != (size, 1):
        raise ValueError(f"paged_attention: the last two dimensions of q must be contiguous; its strides are {q.stride()} for {list(q.shape)}")
    if keys.shape[2:] != (BLOCK_SIZE, size) or heads % keys.shape[1] or keys.dtype != q.dtype:
        raise ValueError(
            f"paged_attention: the cache must be [num_blocks, a divisor of {heads}, {BLOCK_SIZE}, {size}] of {q.dtype}, not {list(keys.shape)} of {keys.dtype}"
        )
    if values.shape != keys.shape or values.dtype != keys.dtype or not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError(f"paged_attention: keys {list(keys.shape)} and values {list(values.shape)} must be contiguous and alike")
    sequences = batch.block_tables.shape[0]
    for name, x, shape in (
        ("block_tables", batch.block_tables, batch.block_tables.shape),
        ("query_start", batch.query_start, (sequences + 1,)),
        ("context_lens", batch.context_lens, (sequences,)),
    ):
        if x.shape != shape or x.dtype != torch.int32 or not x.is_contiguous():
            raise ValueError(f"paged_attention: {name} must be {list(shape)} of int32, contiguous, not {list(x.shape)} of {x.dtype}")
