"""Every family answers as transformers does in float32, whatever else the engine is doing. Models are small and random."""

import random

import pytest

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
LENGTHS = (1, 15, 16, 17, 70, 120)

pytestmark = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def prompts():
    """Of lengths around a block's border, and longer than Gemma's window."""
    rng = random.Random(3)
    return {f"r{length}": [rng.randrange(311) for _ in range(length)] for length in LENGTHS}


@pytest.fixture
def small(family, make_small):
    return make_small(family)


def test_alone(small, engine, follows, prompts):
    answers = engine(small.folder, *({name: ids} for name, ids in prompts.items()))
    for name, ids in prompts.items():
        assert len(answers.tokens[name]) == 64
        follows(small.reference, ids, answers.tokens[name])


def test_in_a_mixed_batch(small, engine, follows, prompts):
    """All at once, two more than there are rows, so that some are prefilled while others decode."""
    answers = engine(small.folder, prompts, max_num_seqs=4)
    for name, ids in prompts.items():
        follows(small.reference, ids, answers.tokens[name])


def test_in_bfloat16(small, engine, follows, prompts):
    """In half the bits, a token may be another one where the reference likes the two nearly alike."""
    answers = engine(small.folder, prompts, dtype="bfloat16")
    for name, ids in prompts.items():
        follows(small.reference, ids, answers.tokens[name], near=0.25)


def test_with_prefill_in_chunks(small, engine, follows, prompts):
    answers = engine(small.folder, prompts, max_num_batched_tokens=32)
    assert answers.stats.steps > 64 + sum(LENGTHS) // 32
    for name, ids in prompts.items():
        follows(small.reference, ids, answers.tokens[name])


def test_with_a_prefix_hit(small, engine, follows, prompts):
    """The same prompt again, then its first 70 tokens with another end."""
    long = prompts["r120"]
    other = long[:70] + prompts["r17"]
    answers = engine(small.folder, {"first": long}, {"again": long, "other": other})
    assert answers.cached == {"first": 0, "again": 112, "other": 64}
    assert answers.tokens["again"] == answers.tokens["first"]
    follows(small.reference, long, answers.tokens["again"])
    follows(small.reference, other, answers.tokens["other"])


def test_after_a_preemption(small, engine, follows, prompts, kv_blocks):
    """The pool holds one sequence of the greatest length and little more; nothing is cached, so all is computed again."""
    pool = 18 * kv_blocks(small.folder)
    answers = engine(small.folder, prompts, kv_cache_memory_bytes=pool, max_model_len=192, enable_prefix_caching=False)
    assert answers.stats.preemptions > 0
    for name, ids in prompts.items():
        follows(small.reference, ids, answers.tokens[name])
