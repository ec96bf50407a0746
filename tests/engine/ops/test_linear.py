"""Products with packed and plain weights, against torch in float64."""

import pytest
import torch
from torch.nn.functional import linear as torch_linear

from octavo.ops.linear import linear, pack

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@DTYPES
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("shape", [(1, 16, 8), (1, 576, 960), (3, 64, 311), (16, 1536, 576), (64, 100, 33), (200, 576, 64)], ids=str)
def test_packed_weights(shape, dtype, with_bias):
    """Rows and columns that fill no vector, fewer and more tokens than the layout is for."""
    tokens, inputs, outputs = shape
    x, weight = torch.randn(tokens, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    bias = torch.randn(outputs).to(dtype) if with_bias else None
    wide = None if bias is None else bias.double()
    expected = torch_linear(x.double(), weight.double(), wide)
    magnitudes = torch_linear(x.double().abs(), weight.double().abs(), None if wide is None else wide.abs())
    packed = pack(weight)
    assert packed.is_mkldnn, "this build of torch lacks oneDNN"
    for layout in (packed, weight):
        answer = linear(x, layout, bias)
        assert (answer.dtype, answer.shape, answer.is_contiguous()) == (dtype, expected.shape, True)
        # Sums are in float32 at least; only the answer is rounded to bfloat16.
        allowed = magnitudes * 2.0**-20 + (expected.abs() * 2.0**-8 if dtype == torch.bfloat16 else 0)
        assert ((answer.double() - expected).abs() <= allowed).all()


@DTYPES
def test_a_slice_of_tokens(dtype):
    """Inputs that lie in a wider row."""
    x, weight = torch.randn(5, 128).to(dtype)[:, 32:96], torch.randn(48, 64).to(dtype)
    torch.testing.assert_close(linear(x, pack(weight)), linear(x.contiguous(), weight), rtol=2e-2, atol=2e-2)
