"""silu(gate) * up and gelu(gate) * up, against torch in float64."""

import pytest
import torch
from torch.nn.functional import gelu, silu

from octavo.ops.gated_activation import gelu_tanh_mul, silu_mul

OPERATIONS = {silu_mul: silu, gelu_tanh_mul: lambda x: gelu(x, approximate="tanh")}


@pytest.fixture(params=OPERATIONS.items(), ids=["silu", "gelu_tanh"])
def operation(request):
    return request.param


def expect(gate_up, activation):
    gate, up = gate_up.double().chunk(2, dim=-1)
    return (activation(gate) * up).float()


@pytest.mark.parametrize("shape", [(0, 16), (1, 1), (1, 7), (1, 1536), (2, 100), (17, 33), (200, 16), (200, 1536)], ids=str)
def test_parity(device, dtype, assert_close, poisoned, operation, shape):
    ours, activation = operation
    tokens, width = shape
    gate_up = (torch.randn(tokens, 2 * width) * 3).to(dtype).to(device)
    with poisoned():
        answer = ours(gate_up)
    # tanh(x) + 1 cancels for large negative x, so the error is one of the gate, not of the answer.
    gate, up = gate_up.float().chunk(2, dim=-1)
    assert_close(answer, expect(gate_up, activation), (gate * up).abs(), units=4 if dtype == torch.float32 else 1)


@pytest.mark.parametrize("gate", [-1e4, -100.0, -20.0, -0.0, 0.0, 20.0, 1e4])
def test_far_from_zero(device, dtype, operation, gate):
    ours, activation = operation
    gate_up = torch.tensor([[gate] * 20 + [2.0] * 20], dtype=dtype, device=device)
    torch.testing.assert_close(ours(gate_up).float(), expect(gate_up, activation), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda x: x[0], "gate_up must be"), (lambda x: x[:, :7].contiguous(), "gate_up must be"), (lambda x: x[:, ::2], "gate_up must be")],
    ids=["one dimension", "odd", "apart"],
)
def test_wrong_arguments_are_named(operation, change, words):
    with pytest.raises(ValueError, match=words):
        operation[0](change(torch.randn(3, 8)))
