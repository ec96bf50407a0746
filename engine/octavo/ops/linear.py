"""Matrix products with a layer's weights: torch's, on a CPU with weights in the layout that oneDNN multiplies by, and for
a few tokens on a GPU one that reads weights as fast as memory gives them."""

import torch
from torch import Tensor
from torch.nn import functional

from octavo import _C
from octavo.ops import dispatch

_PACKED_FOR = 64
"""Tokens that packed weights are laid out for. The layout serves fewer and more as well."""
_CAN_PACK = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")

_FEW_TOKENS = 8
_INPUTS = 256
"""Inputs come in multiples of this where the kernel for few tokens is used."""


def pack(weight: Tensor) -> Tensor:
    """A weight [out, in] in the layout that `linear` is fastest with on its device. What is given may be freed."""
    if not (_CAN_PACK and weight.is_cpu and weight.dtype in (torch.float32, torch.bfloat16)):
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight.default(weight, _PACKED_FOR)
    return packed


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [T, in] times weight [out, in], which may be packed, transposed, plus bias [out]: [T, out]."""
    if weight.is_mkldnn:
        product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
        return product
    if not (x.is_cuda and dispatch.HAS_CUDA):
        return functional.linear(x, weight, bias)
    tokens, inputs = x.shape
    if tokens > _FEW_TOKENS or inputs % _INPUTS or x.dtype != torch.bfloat16 or x.stride(1) != 1:
        return functional.linear(x, weight, bias)
    outputs = weight.shape[0]
    out = x.new_empty((tokens, outputs))
    tensors = (out.data_ptr(), x.data_ptr(), weight.data_ptr(), 0 if bias is None else bias.data_ptr())
    _C.cuda.small_linear(tensors, (tokens, inputs, outputs, x.stride(0)), torch.cuda.current_stream(x.device).cuda_stream)
    return out


def reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same in plain torch, in float32 inside."""
    return functional.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
