"""Attention over a paged KV cache (arXiv:2309.06180), prefill chunks and decodes in one batch."""

import torch
from msgspec import Struct
from msgspec.structs import force_setattr
from torch import Tensor

from octavo import _C
from octavo.ops import checks, dispatch
from octavo.ops.decode_plan import DecodePlan
from octavo_api.settings import BLOCK_SIZE

CUDA_HEAD_SIZES = (64, 128, 256)
"""Head sizes that the GPU's kernels know, all of them in bfloat16."""


class AttentionBatch(Struct, frozen=True):
    """Which tokens of a batch belong to which sequence, and where their keys and values lie.

    `block_tables` [S, B] int32, entries past a sequence's context unused; `query_start` [S + 1] int32: sequence s has
    the tokens query_start[s] up to query_start[s + 1], its last ones; `context_lens` [S] int32: tokens of the sequence
    in the cache, those of this step included. All contiguous. On a GPU the first `num_decodes` sequences have one token
    each, and `plan` was made for them. They are checked here, once for all layers: `addresses`
    are theirs, `size` is S and B.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """

    block_tables: Tensor
    query_start: Tensor
    context_lens: Tensor
    addresses: tuple[int, int, int] = (0, 0, 0)
    size: tuple[int, int] = (0, 0)
    num_decodes: int = 0
    plan: DecodePlan | None = None

    def __post_init__(self) -> None:
        if self.block_tables.dim() != 2:
            raise ValueError(f"block_tables must be [sequences, blocks] of int32, not {list(self.block_tables.shape)}")
        sequences, blocks = self.block_tables.shape
        addresses = (
            checks.address("block_tables", self.block_tables, (sequences, blocks), torch.int32),
            checks.address("query_start", self.query_start, (sequences + 1,), torch.int32),
            checks.address("context_lens", self.context_lens, (sequences,), torch.int32),
        )
        force_setattr(self, "addresses", addresses)
        force_setattr(self, "size", (sequences, blocks))


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
    keys, values = kv_cache
    q_shape, keys_shape, dtype = q.shape, keys.shape, q.dtype
    if len(q_shape) != 3 or len(keys_shape) != 4 or keys_shape[1] == 0 or q_shape[1] % keys_shape[1]:
        raise ValueError(
            f"paged_attention: q must be [T, Hq, D] and keys [num_blocks, a divisor of Hq, {BLOCK_SIZE}, D], not {list(q_shape)} and {list(keys_shape)}"
        )
    tokens, _, size = q_shape
    blocks, kv_heads, _, _ = keys_shape
    q_at, query_heads, q_stride = checks.heads("paged_attention: q", q, (tokens, size), dtype)
    cache_shape = (blocks, kv_heads, BLOCK_SIZE, size)
    keys_at = checks.address("paged_attention: keys", keys, cache_shape, dtype)
    values_at = checks.address("paged_attention: values", values, cache_shape, dtype)
    found = dispatch.kernels(q) if dispatch.heads_fit(size, query_heads, kv_heads) else None
    if found is None:
        return reference(q, kv_cache, batch, scale, window)
    kernels, code, stream = found
    on_cpu = kernels is _C.cpu
    if not on_cpu and (dtype != torch.bfloat16 or size not in CUDA_HEAD_SIZES):
        return reference(q, kv_cache, batch, scale, window)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    shape = (tokens, query_heads, kv_heads, size, q_stride)
    tensors, tables = (out.data_ptr(), q_at, keys_at, values_at), (*batch.size, blocks)
    if on_cpu:
        kernels.paged_attention(tensors, batch.addresses, shape, tables, (scale, window), code, stream)
    else:
        plan = (0, 0, 0) if batch.plan is None else (batch.num_decodes, batch.plan.address, batch.plan.sequences)
        _C.cuda.planned_attention(tensors, batch.addresses, shape, tables, (scale, window), plan, code, stream)
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
