"""What every operation asks of its tensors before it passes their addresses on. Each property is looked at once: a model
makes hundreds of calls a token."""

import torch
from torch import Tensor


def address(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Where `x` lies, which must be contiguous and of this shape and dtype.

    Raises:
        ValueError: it is not; with its name.
    """
    if x.shape != shape or x.dtype != dtype or not x.is_contiguous():
        raise ValueError(f"{name} must be {list(shape)} of {dtype}, contiguous, not {list(x.shape)} of {x.dtype} with strides {x.stride()}")
    return x.data_ptr()


def heads(name: str, x: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> tuple[int, int, int]:
    """Where `x` [tokens, heads, size] lies, its number of heads and its stride from token to token. A token's heads must
    be contiguous; `shape` is tokens and size.

    Raises:
        ValueError: it does not fit; with its name.
    """
    found, strides = x.shape, x.stride()
    if len(found) != 3 or found[0] != shape[0] or found[2] != shape[1] or x.dtype != dtype or strides[2] != 1 or strides[1] != shape[1]:
        raise ValueError(
            f"{name} must be [{shape[0]}, heads, {shape[1]}] of {dtype} with the last two dimensions contiguous,"
            f" not {list(found)} of {x.dtype} with strides {strides}"
        )
    return x.data_ptr(), found[1], strides[0]
