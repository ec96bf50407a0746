"""Whole blocks are copied, all others are left alone, and none outside of the cache is touched."""

import pytest
import torch

from octavo.ops.copy_blocks import copy_blocks, reference


def make_cache(dtype, device, heads=2, size=48):
    return tuple(torch.randn(9, heads, 16, size).to(dtype).to(device) for _ in "kv")


@pytest.mark.parametrize(("sources", "targets"), [([], []), ([3], [8]), ([1, 1, 7], [2, 5, 0])])
@pytest.mark.parametrize("shape", [(1, 16), (3, 64), (1, 20)], ids=str)
def test_parity(device, dtype, sources, targets, shape):
    cache = make_cache(dtype, device, *shape)
    expected = tuple(x.clone() for x in cache)
    reference(expected, sources, targets)
    copy_blocks(cache, sources, targets)
    assert all(torch.equal(x, y) for x, y in zip(cache, expected, strict=True))


@pytest.mark.parametrize(("sources", "targets"), [([9], [1]), ([1], [9]), ([-1], [1]), ([1, 2], [3, -4])])
def test_blocks_outside_of_the_cache_are_refused_before_any_is_copied(sources, targets):
    cache = make_cache(torch.float32, "cpu")
    before = cache[0].clone()
    with pytest.raises(IndexError, match="in a cache of 9"):
        copy_blocks(cache, sources, targets)
    assert torch.equal(cache[0], before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: (c, [1, 2], [3]), "2 sources for 1 targets"),
        (lambda c: ((c[0], c[1][1:]), [1], [3]), "must be contiguous and alike"),
        (lambda c: ((c[0], c[1].double()), [1], [3]), "must be contiguous and alike"),
        (lambda c: (tuple(x[::2] for x in c), [1], [3]), "must be contiguous and alike"),
    ],
    ids=["unequal", "shapes", "dtypes", "apart"],
)
def test_wrong_arguments_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        copy_blocks(*change(make_cache(torch.float32, "cpu")))
