"""The layers that the families share. Each says to `Weights` which tensors it expects, under their Hugging Face names."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import embedding

from octavo.models.weights import Weights
from octavo.ops.gated_activation import gelu_tanh_mul, silu_mul
from octavo.ops.linear import linear, pack
from octavo.ops.rms_norm import rms_norm


class Linear:
    """[T, in] → [T, out]. Projections of the same input are the rows of one matrix: `parts` has their names and outputs."""

    def __init__(self, weights: Weights, parts: Mapping[str, int], in_features: int, bias: bool = False) -> None:
        rows = sum(parts.values())
        self.weight = weights.empty(rows, in_features)
        self.bias = weights.empty(rows) if bias else None
        begin = 0
        for name, count in parts.items():
            weights.expect(f"{name}.weight", self.weight[begin : begin + count])
            if self.bias is not None:
                weights.expect(f"{name}.bias", self.bias[begin : begin + count])
            begin += count
        weights.finally_do(self._pack)

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def _pack(self) -> None:
        self.weight = pack(self.weight)


class Embedding:
    """Token ids [T] → [T, H], scaled; the scale is rounded to the dtype of the weights first, as in training."""

    def __init__(self, weights: Weights, name: str, count: int, width: int, scale: float = 1.0) -> None:
        self.weight = weights.parameter(f"{name}.weight", count, width)
        self._scale = float(torch.tensor(scale, dtype=weights.dtype))

    def __call__(self, token_ids: Tensor) -> Tensor:
        rows = embedding(token_ids, self.weight)
        return rows if self._scale == 1.0 else rows.mul_(self._scale)


class Head:
    """[T, H] → logits [T, V], by a matrix of its own or the embedding's, capped where the model was trained so."""

    def __init__(self, weight: Tensor, softcap: float | None) -> None:
        self.weight = weight
        self._softcap = softcap

    def __call__(self, x: Tensor) -> Tensor:
        logits = linear(x, self.weight)
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

    def pack(self) -> None:
        """For a matrix that nobody else reads."""
        self.weight = pack(self.weight)


class Norm:
    """RMSNorm of each row, or of each head of a row. `offset` is added to the weight: Gemma stores it less one."""

    def __init__(self, weights: Weights, name: str, width: int, eps: float, offset: float = 0.0) -> None:
        self.weight = weights.parameter(f"{name}.weight", width, offset=offset)
        self._eps = eps

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return rms_norm(x, self.weight, self._eps, residual)


class GatedMLP:
    """down(activation(gate(x)) * up(x))."""

    def __init__(self, weights: Weights, prefix: str, shape: tuple[int, int], activation: str, bias: bool = False) -> None:
        """`shape` is hidden and intermediate size; `activation` silu or gelu_tanh."""
        hidden, inner = shape
        self.gate_up = Linear(weights, {f"{prefix}.gate_proj": inner, f"{prefix}.up_proj": inner}, hidden, bias)
        self.down = Linear(weights, {f"{prefix}.down_proj": hidden}, inner, bias)
        self._activate = gelu_tanh_mul if activation == "gelu_tanh" else silu_mul

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self._activate(self.gate_up(x)))
