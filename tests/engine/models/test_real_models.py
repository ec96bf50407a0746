"""Trained models answer as transformers does in float32, whatever else the engine is doing.

Each model is loaded twice: with an ample budget, alone and then in a mixed batch with a prefix hit; and with chunks of
32 tokens in a pool so small that requests are preempted.
"""

import pytest

from octavo.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STORY = (
    "The lighthouse keeper wrote down the weather every evening: the wind, the height of the waves, and the ships that passed. "
    "On the third of March a boat came in with a broken mast, and three people who had not slept for two days. "
)
TEXTS = {
    "story": STORY,
    "code": "def fibonacci(n: int) -> list[int]:\n    numbers = [0, 1]\n    while len(numbers) < n:\n",
    "facts": "The five largest cities of France by population are",
}


def check(gguf, long, engine, follows, kv_blocks, load_reference):
    """`long` is how often the story is told: once more than fits a window."""
    tokenizer = Tokenizer.from_path(gguf)
    texts = {**TEXTS, "story": STORY * long}
    prompts = {name: tokenizer.encode(text) for name, text in texts.items()}
    prompts["sequel"] = prompts["story"] + tokenizer.encode("In April", add_special_tokens=False)
    story = {"story": prompts["story"]}
    together = {name: ids for name, ids in prompts.items() if name != "story"}
    ample = engine(gguf, story, together, cpu_threads=None, kv_cache_memory_bytes=512 << 20, max_model_len=2048)
    assert ample.cached["sequel"] >= len(prompts["story"]) - 16
    longest = len(prompts["sequel"]) + 64
    tight = engine(
        gguf,
        prompts,
        cpu_threads=None,
        kv_cache_memory_bytes=kv_blocks(gguf) * (longest // 16 + 6),
        max_model_len=longest,
        max_num_batched_tokens=32,
        enable_prefix_caching=False,
    )
    assert tight.stats.preemptions > 0
    reference = load_reference(gguf)
    for name, ids in prompts.items():
        follows(reference, ids, ample.tokens[name])
        follows(reference, ids, tight.tokens[name])


def test_smollm2(smollm2, engine, follows, kv_blocks, load_reference):
    check(smollm2, 2, engine, follows, kv_blocks, load_reference)


def test_qwen2(qwen2_coder, engine, follows, kv_blocks, load_reference):
    check(qwen2_coder, 2, engine, follows, kv_blocks, load_reference)


def test_gemma3(gemma3_270m, engine, follows, kv_blocks, load_reference):
    check(gemma3_270m, 11, engine, follows, kv_blocks, load_reference)
