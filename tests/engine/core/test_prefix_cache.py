"""The chain of hashes, and the longest hit where full-attention and window groups must agree."""

import pytest

from octavo.core.block_pool import BlockPool
from octavo.core.prefix_cache import extend_hashes, longest_hit
from octavo_api.block_hash import block_hash

HASHES = [bytes([index]) for index in range(8)]


def pool_with(*indices: int) -> BlockPool:
    pool = BlockPool(16)
    for index, block in zip(indices, pool.take(len(indices)), strict=True):
        pool.register(block, HASHES[index])
        pool.release([block])
    return pool


def test_the_chain_covers_full_blocks_and_grows():
    tokens = list(range(50))
    hashes: list[bytes] = []
    extend_hashes(hashes, tokens[:20], "", "")
    assert hashes == [block_hash(b"", tokens[:16])]
    extend_hashes(hashes, tokens, "", "")
    assert len(hashes) == 3
    assert hashes[2] == block_hash(hashes[1], tokens[32:48])


@pytest.mark.parametrize("changed", [{"adapter": "a"}, {"salt": "s"}])
def test_tenants_and_adapters_share_nothing(changed):
    plain: list[bytes] = []
    other: list[bytes] = []
    extend_hashes(plain, range(32), "", "")
    extend_hashes(other, range(32), **({"adapter": "", "salt": ""} | changed))
    assert not set(plain) & set(other)


@pytest.mark.parametrize(("cached", "hit"), [((), 0), ((0, 1, 2), 3), ((0, 2, 3), 1), ((1, 2), 0), (tuple(range(8)), 8)])
def test_full_attention_needs_every_block(full, cached, hit):
    assert longest_hit([full], [pool_with(*cached)], HASHES) == hit


@pytest.mark.parametrize(
    ("cached", "hit"),
    [
        ((), 0),
        ((0,), 1),  # the next query is at 16, its window of 24 begins before 0
        ((4, 5), 6),  # at 96: begins at 73, in block 4
        ((5,), 0),
        ((4,), 0),  # at 80: begins at 57, in block 3
        ((0, 1, 4, 5, 7), 6),
    ],
)
def test_a_window_needs_its_trailing_blocks(window, cached, hit):
    assert longest_hit([window], [pool_with(*cached)], HASHES) == hit


def test_the_hit_suits_all_groups(full, window):
    assert longest_hit([full, window], [pool_with(0, 1, 2, 3, 4), pool_with(2, 3, 6, 7)], HASHES) == 4
    assert longest_hit([window, full], [pool_with(2, 3, 6, 7), pool_with(0, 1, 2)], HASHES) == 0
