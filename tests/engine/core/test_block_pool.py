"""The block pool: holding, sharing, releasing, and what stays findable."""

import pytest

from octavo.core.block_pool import BlockPool


def test_the_null_block_is_never_given_out():
    pool = BlockPool(5)
    assert pool.num_blocks == pool.num_free == 4
    assert sorted(pool.take(4)) == [1, 2, 3, 4]
    assert pool.num_free == 0
    pool.release([0])
    assert pool.num_free == 0


def test_a_pool_needs_a_block_beside_the_null_block():
    with pytest.raises(ValueError, match="not 1 blocks"):
        BlockPool(1)


def test_a_shared_block_is_free_after_its_last_holder():
    pool = BlockPool(3)
    (block,) = pool.take(1)
    pool.hold(block)
    pool.release([block])
    assert pool.references(block) == 1
    assert pool.num_used == 1
    pool.release([block])
    assert pool.num_used == 0


def test_releasing_twice_is_an_error():
    pool = BlockPool(3)
    (block,) = pool.take(1)
    pool.release([block])
    with pytest.raises(RuntimeError, match="nobody holds it"):
        pool.release([block])


def test_a_freed_block_is_findable_until_it_is_given_out_again():
    pool = BlockPool(3)
    (block,) = pool.take(1)
    pool.register(block, b"content")
    pool.release([block])
    assert pool.find(b"content") == block
    pool.hold(block)
    assert pool.references(block) == 1
    pool.release([block])
    pool.take(2)
    assert pool.find(b"content") is None


def test_eviction_takes_unknown_blocks_first_then_the_ones_freed_longest_ago():
    pool = BlockPool(5)
    first, second, third, unknown = pool.take(4)
    for block in (first, second, third):
        pool.register(block, bytes([block]))
    pool.release([second])
    pool.release([first, third])
    pool.release([unknown])
    assert pool.take(4) == [unknown, second, first, third]


def test_the_first_block_of_a_content_keeps_it():
    pool = BlockPool(4)
    first, second = pool.take(2)
    pool.register(first, b"content")
    pool.register(second, b"content")
    assert pool.find(b"content") == first
    assert not pool.is_exclusive(first)
    assert pool.is_exclusive(second)
