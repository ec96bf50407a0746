"""Which compiled kernels serve a tensor. Devices, dtypes and shapes without any run the references.

A model makes hundreds of calls a token, so the operations look at each property of a tensor once.
"""

import torch
from torch import Tensor

from octavo import _C

_CODES = {torch.float32: 0, torch.bfloat16: 1}
_MAX_QUERY_HEADS_PER_KV_HEAD = 64

HAS_CUDA = hasattr(_C, "cuda")
"""Whether the GPU's kernels were compiled."""


def kernels(x: Tensor, run: int = 0) -> "tuple[_C.Kernels, int, int] | None":
    """The compiled operations for tensors like `x` and what ends every call of them: the number that stands for its
    dtype, and the stream to run on. None where there are none. `run` is how many elements lie side by side everywhere in
    what is computed: a GPU's kernels take them in vectors of 16 bytes."""
    code = _CODES.get(x.dtype)
    if code is None:
        return None
    if x.is_cpu:
        return _C.cpu, code, 0
    if HAS_CUDA and x.is_cuda and not (run * x.element_size() % 16 or x.data_ptr() % 16):
        return _C.cuda, code, torch.cuda.current_stream(x.device).cuda_stream
    return None


def heads_fit(size: int, query_heads: int, kv_heads: int) -> bool:
    """Whether the compiled attention and rotary kernels know heads of this size, so many to a KV head."""
    return size % 16 == 0 and 16 <= size <= 256 and query_heads <= _MAX_QUERY_HEADS_PER_KV_HEAD * kv_heads
