"""The tokenizers of the real models' GGUF files read and write text as transformers' do."""

import time

import pytest
from corpora import TEXTS, WIDE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.text.tokenizer import Tokenizer

MODELS = ("smollm2", "qwen2_coder", "gemma3_270m")

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("model", MODELS)]
many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.mark.parametrize("text", WIDE)
def test_token_ids_are_those_of_transformers(model, text, real_tokenizer, reference_tokenizer):
    ours, reference = real_tokenizer(model), reference_tokenizer(model)
    assert ours.encode(text) == reference.encode(text).ids
    assert ours.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False).ids


@many
@given(text=TEXTS)
def test_token_ids_of_any_text_are_those_of_transformers(model, text, real_tokenizer, reference_tokenizer):
    assert real_tokenizer(model).encode(text) == reference_tokenizer(model).encode(text).ids


@many
@given(data=st.data(), skip=st.booleans())
def test_any_tokens_decode_as_in_tokenizers(model, data, skip, real_tokenizer, reference_tokenizer):
    """But for byte tokens that make no whole character, where `test_pieces` says what is meant."""
    ours, reference = real_tokenizer(model), reference_tokenizer(model)
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=20))
    if model == "gemma3_270m":
        ids = [token for token in ids if not reference.id_to_token(token).startswith("<0x")]
    if model == "qwen2_coder":  # the reference takes the fillers for tokens, and code tokens for special ones
        ids = [token for token in ids if token < 151_659]
    assert ours.decode(ids, skip_special_tokens=skip) == reference.decode(ids, skip_special_tokens=skip)


@many
@given(text=TEXTS)
def test_text_survives_both_ways(model, text, real_tokenizer):
    tokenizer = real_tokenizer(model)
    if model == "smollm2":
        text = "".join(character for character in text if tokenizer.decode(tokenizer.encode(character)) == character)  # it lacks some bytes
    if model == "gemma3_270m":
        text = text.replace("▁", "_")  # a blank, to SentencePiece
    if model == "qwen2_coder":
        text = tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False)  # composes accents
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=False) == text


def test_what_the_files_say(model, real_tokenizer):
    tokenizer = real_tokenizer(model)
    facts = {
        "smollm2": ("<|im_start|>", "<|im_end|>", (2, 0), 49_152, True),
        "qwen2_coder": ("<|endoftext|>", "<|im_end|>", (151_645, 151_643), 151_665, True),
        "gemma3_270m": ("<bos>", "<eos>", (1, 106), 262_144, False),
    }
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.eos_token_ids, tokenizer.vocab_size, tokenizer.has_chat_template) == facts[model]


def test_loading_is_quick(model, request):
    """In seconds of processor time, so that a busy machine does not matter: half a second for Qwen's 151,665 tokens.
    Gemma's file has no merges, which are worked out from 262,144 tokens."""
    path = request.getfixturevalue(model)
    begin = time.process_time()
    Tokenizer.from_path(path)
    assert time.process_time() - begin < {"smollm2": 1.0, "qwen2_coder": 1.5, "gemma3_270m": 5.0}[model]
