"""RMSNorm (arXiv:1910.07467), with the residual addition that precedes it in a decoder layer."""

import torch
from torch import Tensor

from octavo.ops import checks, dispatch


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
    """Scales each row of `x` to a root mean square of 1, then by `weight`.

    Args:
        x: [T, H], or [T, heads, H] to normalise each head; float32 or bfloat16, the last dimension contiguous.
        weight: [H], dtype of `x`.
        eps: added to the mean square.
        residual: [T, H], contiguous. `x` is added to it in place, and the sum is what gets normalised.

    Returns:
        A new contiguous tensor of the shape of `x`.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    shape, strides, dtype = x.shape, x.stride(), x.dtype
    if len(shape) not in (2, 3) or strides[-1] != 1:
        raise ValueError(f"rms_norm: x must be [T, H] or [T, heads, H] with the last dimension contiguous, not {list(shape)} with strides {strides}")
    width = shape[-1]
    weight_at = checks.address("rms_norm: weight", weight, (width,), dtype)
    residual_at = 0
    if residual is not None:
        if len(shape) != 2:
            raise ValueError(f"rms_norm: a residual goes with x of [T, H], not {list(shape)}")
        residual_at = checks.address("rms_norm: residual", residual, shape, dtype)
    found = dispatch.kernels(x, width)
    if found is None:
        return reference(x, weight, eps, residual)
    kernels, code, stream = found
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    kernels.rms_norm(
        (out.data_ptr(), x.data_ptr(), weight_at, residual_at),
        (shape[0], shape[1] if len(shape) == 3 else 1, width),
        (strides[0], strides[1]),
        eps,
        code,
        stream,
    )
    return out


def reference(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
    """The same in plain torch, in float32 inside."""
    if residual is not None:
        residual += x
        x = residual
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)
