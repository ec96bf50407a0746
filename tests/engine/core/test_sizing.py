"""Bytes into blocks: nothing is given out twice, one longest sequence fits, and what does not fit says why."""

import logging

import pytest

from octavo.core.sizing import size_kv_cache
from octavo.executor.protocol import ModelFacts
from octavo_api.errors import InvalidSetting, ModelUnavailable
from octavo_api.settings import BLOCK_SIZE, EngineSettings

KIB = 1024


def facts(*groups, kv_bytes, block_bytes=(KIB, KIB), max_model_len=8192):
    return ModelFacts(
        groups=groups,
        block_bytes=block_bytes[: len(groups)],
        kv_bytes=kv_bytes,
        max_model_len=max_model_len,
        max_num_batched_tokens=512,
        vocab_size=100,
        dtype="float32",
    )


def used(facts, sizes):
    return sum(count * size for count, size in zip(sizes.num_blocks, facts.block_bytes, strict=True))


def test_one_group_gets_all(full):
    given = facts(full, kv_bytes=10_000 * KIB)
    sizes = size_kv_cache(given, EngineSettings())
    assert sizes.max_model_len == 8192
    assert sizes.num_blocks == (10_000,)


def test_groups_share_what_is_there(full, window):
    given = facts(full, window, kv_bytes=10_000 * KIB, block_bytes=(KIB, 5 * KIB))
    sizes = size_kv_cache(given, EngineSettings())
    assert 9_990 * KIB <= used(given, sizes) <= given.kv_bytes
    assert sizes.num_blocks[0] - 1 >= full.peak_blocks(8192, 512)
    assert sizes.num_blocks[1] - 1 >= window.peak_blocks(8192, 512)


def test_auto_length_shrinks_to_what_fits_and_says_so(full, window, caplog):
    given = facts(full, window, kv_bytes=200 * KIB)
    with caplog.at_level(logging.WARNING):
        sizes = size_kv_cache(given, EngineSettings())
    assert sizes.max_model_len == (200 - 2 - 35) * BLOCK_SIZE
    assert used(given, sizes) <= given.kv_bytes
    assert f"max_model_len is {sizes.max_model_len}" in caplog.text


def test_an_explicit_length_is_not_shrunk(full):
    with pytest.raises(ModelUnavailable, match="set max_model_len to 3184 or less") as error:
        size_kv_cache(facts(full, kv_bytes=200 * KIB), EngineSettings(max_model_len=4096))
    assert error.value.reason == "KVCacheDoesNotFit"
    assert "4096 tokens needs 0.3 MiB" in str(error.value)


def test_nothing_fits(full):
    with pytest.raises(ModelUnavailable, match="give it more memory"):
        size_kv_cache(facts(full, kv_bytes=KIB), EngineSettings())


def test_longer_than_the_model_allows(full):
    with pytest.raises(InvalidSetting, match="max_model_len: is 9000, but the model allows 8192"):
        size_kv_cache(facts(full, kv_bytes=10_000 * KIB), EngineSettings(max_model_len=9000))


def test_a_short_context_may_have_less_than_a_block_over(full):
    sizes = size_kv_cache(facts(full, kv_bytes=5 * KIB), EngineSettings(max_model_len=64))
    assert sizes.num_blocks == (5,)
