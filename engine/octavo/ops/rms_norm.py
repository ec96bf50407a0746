"""RMSNorm (arXiv:1910.07467), with the residual addition that precedes it in a decoder layer."""

import torch
from torch import Tensor

from octavo.ops import dispatch


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
    _check(x, weight, residual)
    kernels = dispatch.kernels(x)
    if kernels is None:
        return reference(x, weight, eps, residual)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    heads = x.shape[1] if x.dim() == 3 else 1
    kernels.rms_norm(
        (out.data_ptr(), x.data_ptr(), weight.data_ptr(), 0 if residual is None else residual.data_ptr()),
        (x.shape[0], heads, x.shape[-1]),
        (x.stride(0), x.stride(1)),
        eps,
        *dispatch.call(x),
    )
    return out


def reference(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
    """The same in plain torch, in float32 inside."""
    if residual is not None:
        residual += x
        x = residual
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def _check(x: Tensor, weight: Tensor, residual: Tensor | None) -> None:
    if x.dim() not in (2, 3) or x.stride(-1) != 1:
        raise ValueError(f"rms_norm: x must be [T, H] or [T, heads, H] with the last dimension contiguous, not {list(x.shape)} with strides {x.stride()}")
    if weight.shape != x.shape[-1:] or weight.dtype != x.dtype or not weight.is_contiguous():
        raise ValueError(f"rms_norm: weight must be [{x.shape[-1]}] of {x.dtype}, not {list(weight.shape)} of {weight.dtype}")
    if residual is not None and (x.dim() != 2 or residual.shape != x.shape or residual.dtype != x.dtype or not residual.is_contiguous()):
        raise ValueError(f"rms_norm: residual must be contiguous and like x, {list(x.shape)} of {x.dtype}, not {list(residual.shape)} of {residual.dtype}")
