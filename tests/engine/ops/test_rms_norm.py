"""RMSNorm of rows and of heads, with and without the residual that goes before it."""

import pytest
import torch

from octavo import _C
from octavo.ops.rms_norm import reference, rms_norm

EPS = 1e-5


@pytest.mark.parametrize("tokens", [0, 1, 2, 17, 90])
@pytest.mark.parametrize("width", [1, 5, 16, 33, 576, 4096])
def test_rows(device, dtype, assert_close, poisoned, tokens, width):
    x, weight = (torch.randn(*shape, width).to(dtype).to(device) for shape in ((tokens,), ()))
    with poisoned():
        answer = rms_norm(x, weight, EPS)
    assert_close(answer, reference(x.float(), weight.float(), EPS), units=8 if dtype == torch.float32 else 1)


@pytest.mark.parametrize("tokens", [1, 2, 17])
@pytest.mark.parametrize("width", [7, 64, 2305])
def test_the_sum_with_the_residual_is_kept_and_normalised(device, dtype, assert_close, poisoned, tokens, width):
    x, residual = (torch.randn(tokens, width).to(dtype).to(device) for _ in range(2))
    weight = torch.randn(width).to(dtype).to(device)
    total = residual.float() + x.float()
    with poisoned():
        answer = rms_norm(x, weight, EPS, residual)
    assert_close(residual, total)
    assert_close(answer, reference(residual.float(), weight.float(), EPS), units=8 if dtype == torch.float32 else 1)


@pytest.mark.parametrize("tokens", [1, 2, 17])
@pytest.mark.parametrize("size", [16, 80, 96, 128, 256])
def test_heads_that_lie_in_a_wider_row(device, dtype, assert_close, poisoned, tokens, size):
    rows = torch.randn(tokens, 9, size).to(dtype).to(device)
    before = rows.clone()
    weight = torch.randn(size).to(dtype).to(device)
    with poisoned():
        answer = rms_norm(rows[:, 2:5], weight, EPS)
    assert answer.is_contiguous()
    assert torch.equal(rows, before)
    assert_close(answer, reference(rows[:, 2:5].float(), weight.float(), EPS), units=8 if dtype == torch.float32 else 1)


def test_tiny_and_zero_rows(device, dtype, assert_close):
    x = torch.zeros(2, 48, dtype=dtype, device=device)
    x[1] = 1e-6
    weight = torch.ones(48, dtype=dtype, device=device)
    assert_close(rms_norm(x, weight, EPS), reference(x.float(), weight.float(), EPS), units=8 if dtype == torch.float32 else 1)


def test_more_threads_than_rows_change_nothing(device, dtype):
    x, weight = torch.randn(3, 4096).to(dtype).to(device), torch.randn(4096).to(dtype).to(device)
    expected = rms_norm(x, weight, EPS)
    for count in (1, 16):
        _C.set_threads(count)
        assert torch.equal(rms_norm(x, weight, EPS), expected)


WRONG = {
    "one dimension": (lambda x, w: (x[0], w, None), "x must be"),
    "columns apart": (lambda x, w: (x[:, ::2], w[:4], None), "x must be"),
    "short weight": (lambda x, w: (x, w[:7], None), "weight must be"),
    "weight of another dtype": (lambda x, w: (x, w.double(), None), "weight must be"),
    "weight apart": (lambda x, w: (x[:, :4].contiguous(), w[::2], None), "weight must be"),
    "residual of another shape": (lambda x, w: (x, w, x[:1].clone()), "residual must be"),
    "residual of another dtype": (lambda x, w: (x, w, x.double()), "residual must be"),
    "residual apart": (lambda x, w: (x, w, torch.cat((x, x), 1)[:, ::2]), "residual must be"),
    "residual with heads": (lambda x, w: (x.view(3, 1, 8), w, x.view(3, 1, 8).clone()), "a residual goes with"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_named(change, words):
    x, weight, residual = change(torch.randn(3, 8), torch.randn(8))
    with pytest.raises(ValueError, match=words):
        rms_norm(x, weight, EPS, residual)


def test_a_dtype_without_a_kernel_is_computed_all_the_same():
    x, weight = torch.randn(3, 8).half(), torch.randn(8).half()
    torch.testing.assert_close(rms_norm(x, weight, EPS).float(), reference(x.float(), weight.float(), EPS), rtol=1e-3, atol=1e-6)
