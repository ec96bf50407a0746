"""The gate of a gated MLP (arXiv:2002.05202): activation(gate) * up, from one fused projection."""

from torch import Tensor
from torch.nn.functional import gelu, silu

from octavo.ops import dispatch


def silu_mul(gate_up: Tensor) -> Tensor:
    """[T, 2I] → [T, I]: silu of the first half of each row times its second half; float32 or bfloat16, contiguous."""
    return _run(gate_up, gelu_tanh=False)


def gelu_tanh_mul(gate_up: Tensor) -> Tensor:
    """[T, 2I] → [T, I]: as `silu_mul`, with gelu in its tanh approximation (arXiv:1606.08415)."""
    return _run(gate_up, gelu_tanh=True)


def _run(gate_up: Tensor, gelu_tanh: bool) -> Tensor:
    shape = gate_up.shape
    if len(shape) != 2 or shape[1] % 2 or not gate_up.is_contiguous():
        raise ValueError(f"gated_activation: gate_up must be [T, 2I], contiguous, not {list(shape)} with strides {gate_up.stride()}")
    found = dispatch.kernels(gate_up, shape[1] // 2)
    if found is None:
        return reference(gate_up, gelu_tanh)
    kernels, dtype, stream = found
    size = (shape[0], shape[1] // 2)
    out = gate_up.new_empty(size)
    kernels.gated_activation((out.data_ptr(), gate_up.data_ptr()), size, gelu_tanh, dtype, stream)
    return out


def reference(gate_up: Tensor, gelu_tanh: bool) -> Tensor:
    """The same in plain torch, in float32 inside."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return ((gelu(gate, approximate="tanh") if gelu_tanh else silu(gate)) * up).to(gate_up.dtype)
