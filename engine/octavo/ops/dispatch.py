"""Which compiled kernels serve a tensor. Devices and dtypes without any run the references."""

import torch
from torch import Tensor

from octavo import _C

_CODES = {torch.float32: 0, torch.bfloat16: 1}


def kernels(x: Tensor) -> "_C.Kernels | None":
    """The compiled operations for tensors like `x`; None where there are none."""
    if x.dtype not in _CODES:
        return None
    return _C.cpu if x.is_cpu else None


def call(x: Tensor) -> tuple[int, int]:
    """What ends every call of a kernel: the number that stands for the dtype of `x`, and the stream to run on."""
    return _CODES[x.dtype], 0 if x.is_cpu else torch.cuda.current_stream(x.device).cuda_stream


def head_size_fits(head_size: int) -> bool:
    """Whether the compiled attention and rotary kernels know this head size."""
    return head_size % 16 == 0 and 16 <= head_size <= 256
