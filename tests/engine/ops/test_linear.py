"""Matrix products with weights: for few tokens a GPU has a kernel of its own, elsewhere they are torch's."""

import pytest
import torch

from octavo.ops.linear import linear, reference


@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 256), (17, 512), (576, 1024), (3000, 4096), (64, 96)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_products(device, dtype, assert_close, poisoned, tokens, outputs, inputs, with_bias):
    x, weight = (torch.randn(rows, inputs).to(dtype).to(device) for rows in (tokens, outputs))
    bias = torch.randn(outputs).to(dtype).to(device) if with_bias else None
    with poisoned():
        answer = linear(x, weight, bias)
    magnitudes = x.float().abs() @ weight.float().abs().T + (0 if bias is None else bias.float().abs())
    assert_close(
        answer, reference(x.float(), weight.float(), None if bias is None else bias.float()), scale=magnitudes, units=8 if dtype == torch.float32 else 2
    )


def test_tokens_that_lie_apart(device, dtype, assert_close):
    rows = torch.randn(4, 3, 256).to(dtype).to(device)
    x, weight = rows[:, 1], torch.randn(48, 256).to(dtype).to(device)
    magnitudes = x.float().abs() @ weight.float().abs().T
    assert_close(linear(x, weight), reference(x.float(), weight.float()), scale=magnitudes, units=8 if dtype == torch.float32 else 2)
