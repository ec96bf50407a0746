"""Rotation in place and the write to scattered slots of the cache; nothing else in the cache is touched."""

import pytest
import torch

from octavo.ops import rms_norm
from octavo.ops.rotary_kv_write import HeadNorms, norm_rotary_kv_write, reference, rotary_kv_write

POSITIONS = 300


class Tokens:
    """T tokens whose q, k and v lie side by side, their slots in no order in a cache of NaN."""

    def __init__(self, tokens, shape, dtype, device):
        query_heads, kv_heads, self.size = shape
        rows = torch.randn(tokens, query_heads + 2 * kv_heads, self.size).to(dtype).to(device)
        self.qkv = rows.split((query_heads, kv_heads, kv_heads), dim=1)
        self.rows = rows
        angles = torch.randn(POSITIONS, self.size // 2)
        self.cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1).to(device)
        self.positions = torch.randint(POSITIONS, (tokens,)).to(device)
        blocks = tokens // 16 + 3
        self.slots = torch.randperm(blocks * 16)[:tokens].to(device)
        self.kv_cache = tuple(torch.full((blocks, kv_heads, 16, self.size), float("nan"), dtype=dtype, device=device) for _ in "kv")

    def arguments(self, **changed):
        names = ("qkv", "cos_sin", "positions", "slots", "kv_cache")
        return tuple(changed.get(name, getattr(self, name)) for name in names)


@pytest.mark.parametrize("tokens", [0, 1, 2, 17, 200])
@pytest.mark.parametrize("shape", [(1, 1, 16), (9, 3, 64), (8, 2, 80), (4, 2, 96), (14, 2, 128), (4, 1, 256), (2, 2, 48)], ids=str)
def test_parity(device, dtype, assert_close, tokens, shape):
    given = Tokens(tokens, shape, dtype, device)
    magnitudes = [x.float().abs() + x.float().abs().roll(given.size // 2, -1) for x in given.qkv[:2]]
    wide_qkv = tuple(x.float() for x in given.qkv)
    wide_cache = tuple(x.float() for x in given.kv_cache)
    reference(wide_qkv, given.cos_sin, given.positions, given.slots, wide_cache)
    v = given.qkv[2].clone()
    rotary_kv_write(*given.arguments())
    for x, expected, magnitude in zip(given.qkv, wide_qkv, magnitudes, strict=False):
        assert_close(x, expected, magnitude, units=2)
    assert torch.equal(given.qkv[2], v)
    written = torch.zeros(given.kv_cache[0].shape[0] * 16, dtype=torch.bool, device=device)
    written[given.slots] = True
    for cache, x in zip(given.kv_cache, given.qkv[1:], strict=True):
        by_slot = cache.transpose(1, 2).flatten(0, 1)
        assert torch.equal(by_slot[given.slots], x)
        assert by_slot[~written].isnan().all()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("positions", -1, "token 1 has position -1, which must be below 300"),
        ("positions", POSITIONS, "token 1 has position 300"),
        ("slots", -1, "token 1 has slot -1, which must be below 48"),
        ("slots", 48, "token 1 has slot 48"),
    ],
)
def test_what_leaves_the_tables_is_refused_before_anything_is_written(name, value, words):
    given = Tokens(2, (2, 1, 16), torch.bfloat16, "cpu")
    before = given.rows.clone()
    getattr(given, name)[1] = value
    with pytest.raises(IndexError, match=words):
        rotary_kv_write(*given.arguments())
    assert torch.equal(given.rows, before)
    assert given.kv_cache[0].isnan().all()


WRONG = {
    "heads apart": (lambda g: {"qkv": (g.qkv[0].transpose(0, 1).contiguous().transpose(0, 1), *g.qkv[1:])}, "q must be"),
    "k of other tokens": (lambda g: {"qkv": (g.qkv[0], g.qkv[1][:2], g.qkv[2])}, "k must be"),
    "v of another dtype": (lambda g: {"qkv": (*g.qkv[:2], g.qkv[2].double())}, "v must be"),
    "angles of another size": (lambda g: {"cos_sin": g.cos_sin[:, :8].contiguous()}, "cos_sin must be"),
    "angles of another dtype": (lambda g: {"cos_sin": g.cos_sin.double()}, "cos_sin must be"),
    "positions of int32": (lambda g: {"positions": g.positions.int()}, "positions must be"),
    "slots too few": (lambda g: {"slots": g.slots[:2]}, "slots must be"),
    "keys of other heads": (lambda g: {"kv_cache": (g.kv_cache[0][:, :1].contiguous(), g.kv_cache[1])}, "keys must be"),
    "values of fewer blocks": (lambda g: {"kv_cache": (g.kv_cache[0], g.kv_cache[1][1:])}, "values must be"),
    "values of another dtype": (lambda g: {"kv_cache": (g.kv_cache[0], g.kv_cache[1].double())}, "values must be"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_named(change, words):
    given = Tokens(3, (4, 2, 16), torch.bfloat16, "cpu")
    with pytest.raises(ValueError, match=words):
        rotary_kv_write(*given.arguments(**change(given)))


def test_a_head_size_without_a_kernel_is_computed_all_the_same(dtype, assert_close):
    given = Tokens(3, (2, 1, 20), dtype, "cpu")
    wide = tuple(x.float() for x in given.qkv)
    reference(wide, given.cos_sin, given.positions, given.slots, tuple(x.float() for x in given.kv_cache))
    rotary_kv_write(*given.arguments())
    assert_close(given.qkv[0], wide[0], wide[0].abs() + 1, units=2)


@pytest.mark.parametrize("size", [16, 64, 80, 128, 256])
@pytest.mark.parametrize(("query_heads", "kv_heads"), [(1, 1), (3, 1), (14, 2)])
def test_heads_are_normalised_before_they_are_rotated(device, dtype, size, query_heads, kv_heads):
    tokens = 5
    rows = torch.randn(tokens, query_heads + 2 * kv_heads, size).to(dtype).to(device)
    q, k, v = rows.split_with_sizes((query_heads, kv_heads, kv_heads), 1)
    norms = HeadNorms(*(torch.randn(size).to(dtype).to(device) for _ in range(2)), 1e-6)
    tables = (torch.randn(40, size, device=device), torch.randint(0, 40, (tokens,), device=device), torch.randperm(48, device=device)[:tokens])
    cache, expected_cache = (
        (torch.zeros(3, kv_heads, 16, size, dtype=dtype, device=device), torch.zeros(3, kv_heads, 16, size, dtype=dtype, device=device)) for _ in range(2)
    )
    expected_q, expected_k = rms_norm.reference(q, norms.query, norms.eps), rms_norm.reference(k, norms.key, norms.eps)
    reference((expected_q, expected_k, v.clone()), *tables, expected_cache)
    answer = norm_rotary_kv_write((q, k, v), norms, tables, cache)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    for found, expected in ((answer, expected_q), *zip(cache, expected_cache, strict=True)):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
