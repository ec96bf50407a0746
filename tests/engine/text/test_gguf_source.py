"""Tokenizers of the kinds that the real models do not have, written to GGUF files as llama.cpp writes them."""

import io
import json

import pytest
import sentencepiece
import tokenizers
from corpora import SPECIAL, TEXTS, WIDE
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from octavo_api.errors import ModelUnavailable

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
WORDS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama-bpe": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
    "qwen2": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
}
CORPUS = [text for text in WIDE if text not in SPECIAL] * 3


class ByteLevel:
    """A small vocabulary learned from the corpus, and what a GGUF file says of it."""

    def __init__(self, pre: str) -> None:
        self.backend = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
        self.backend.pre_tokenizer = WORDS[pre]
        self.backend.decoder = decoders.ByteLevel()
        if pre == "qwen2":
            self.backend.normalizer = normalizers.NFC()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        self.backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False))
        self.backend.add_special_tokens(["<|im_start|>", "<|im_end|>", "<｜完▁了｜>"])
        self.backend.add_tokens(["<tool_call>"])
        added = self.backend.get_added_tokens_decoder()
        tokens = sorted(self.backend.get_vocab(), key=self.backend.token_to_id)
        state = json.loads(self.backend.to_str())["model"]
        self.keys = {
            "model": "gpt2",
            "pre": pre,
            "tokens": [*tokens, "[PAD0]"],
            "token_type": [*((CONTROL if added[index].special else USER_DEFINED) if index in added else NORMAL for index in range(len(tokens))), UNUSED],
            "merges": [" ".join(merge) for merge in state["merges"]],
            "bos_token_id": self.backend.token_to_id("<|im_start|>"),
            "eos_token_id": self.backend.token_to_id("<|im_end|>"),
            "add_bos_token": False,
        }


@pytest.fixture(scope="module")
def byte_level() -> dict[str, ByteLevel]:
    return {pre: ByteLevel(pre) for pre in WORDS}


@many
@pytest.mark.parametrize("pre", WORDS)
@given(texts=st.lists(TEXTS, min_size=1, max_size=10))
def test_a_byte_level_tokenizer_splits_text_in_its_own_way(pre, texts, byte_level, request):
    learned = byte_level[pre]
    ours = _once(request, lambda: request.getfixturevalue("gguf_tokenizer")("llama", **learned.keys))
    for text in [*texts, "<｜完▁了｜> <tool_call>"]:
        ids = learned.backend.encode(text).ids
        assert ours.encode(text) == ids
        assert ours.decode(ids) == learned.backend.decode(ids)


def _once(request, make):
    """`make()`, done once in a test that hypothesis runs many times."""
    if not hasattr(request.node, "made"):
        request.node.made = make()
    return request.node.made


@pytest.fixture(scope="module")
def sentence_piece() -> sentencepiece.SentencePieceProcessor:
    """A small vocabulary of Llama 2's kind."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in CORPUS for line in text.replace("\0", "").split("\n") if line]),
        model_writer=model,
        model_type="bpe",
        vocab_size=700,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.98,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentence_piece_keys(learned: sentencepiece.SentencePieceProcessor) -> dict:
    ids = range(learned.get_piece_size())
    kinds = [(UNKNOWN if learned.is_unknown(i) else CONTROL if learned.is_control(i) else BYTE if learned.is_byte(i) else NORMAL) for i in ids]
    return {
        "model": "llama",
        "tokens": [learned.id_to_piece(i) for i in ids],
        "scores": [float(learned.get_score(i)) for i in ids],
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


@many
@given(texts=st.lists(TEXTS, min_size=1, max_size=10))
def test_a_sentence_piece_tokenizer_works_as_sentence_piece(texts, sentence_piece, request):
    """But for special tokens in a text, which SentencePiece does not look for."""
    ours = _once(request, lambda: request.getfixturevalue("gguf_tokenizer")("llama", **sentence_piece_keys(sentence_piece)))
    for text in texts:
        plain = text.replace("<s>", "").replace("</s>", "").replace("<unk>", "")
        assert ours.encode(plain)[1:] == sentence_piece.encode(plain)
        assert ours.encode(plain)[0] == 1


@many
@given(ids=st.lists(st.integers(3, 600), max_size=20) | st.lists(st.integers(3, 258), max_size=20))
def test_any_tokens_decode_as_by_sentence_piece(ids, sentence_piece, request):
    """Byte tokens too that make no whole character. Only a text that begins with the byte token of a blank differs:
    SentencePiece keeps that blank, Hugging Face's decoders take a first blank away whatever it came from, and so do we."""
    assume(ids[:1] != [sentence_piece.piece_to_id("<0x20>")])
    ours = _once(request, lambda: request.getfixturevalue("gguf_tokenizer")("llama", **sentence_piece_keys(sentence_piece)))
    assert ours.decode(ids) == sentence_piece.decode(ids)


def test_without_a_space_before_the_first_word(gguf_tokenizer, sentence_piece):
    keys = sentence_piece_keys(sentence_piece)
    ours = gguf_tokenizer("llama", **keys, add_space_prefix=False, add_bos_token=False)
    assert ours.decode(ours.encode("Hello world")) == "Hello world"
    assert ours.encode(" Hello") == sentence_piece.encode("Hello")


VOCABULARY = {"model": "gpt2", "tokens": ["<|begin|>", "a", "b", "ab", "<|eot_id|>"], "token_type": [3, 1, 1, 1, 3], "merges": ["a b"]}


@pytest.mark.parametrize(
    ("keys", "ids"),
    [
        ({"pre": "gpt-2"}, [3]),
        ({"pre": "llama-bpe"}, [0, 3]),
        ({"pre": "llama-bpe", "add_bos_token": False}, [3]),
        ({"add_bos_token": True, "add_eos_token": True}, [0, 3, 4]),
    ],
)
def test_what_goes_before_and_after_a_text(keys, ids, gguf_tokenizer):
    tokenizer = gguf_tokenizer("llama", **VOCABULARY, bos_token_id=0, eos_token_id=4, **keys)
    assert tokenizer.encode("ab") == ids
    assert tokenizer.encode("ab", add_special_tokens=False) == [3]


def test_an_answer_ends_at_the_end_of_a_turn_too(gguf_tokenizer):
    assert gguf_tokenizer("llama", **VOCABULARY, eos_token_id=0).eos_token_ids == (0, 4), "known by its name"
    assert gguf_tokenizer("llama", **VOCABULARY, eos_token_id=0, eot_token_id=2, eom_token_id=1).eos_token_ids == (0, 2, 1, 4)


def test_chat_templates_by_name(gguf_tokenizer):
    templates = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    tokenizer = gguf_tokenizer("llama", templates, **VOCABULARY)
    hi = [{"role": "user", "content": "Hi"}]
    assert (tokenizer.apply_chat_template(hi), tokenizer.apply_chat_template(hi, tools=[{}])) == ("plain", "tools")


@pytest.mark.parametrize(
    ("keys", "reason", "says"),
    [
        ({}, "TokenizerNotFound", "has no tokenizer in it; give --tokenizer"),
        ({"model": "gpt2"}, "TokenizerNotFound", "has no tokenizer in it"),
        ({**VOCABULARY, "model": "rwkv"}, "ModelInvalid", "of the kind 'rwkv', Octavo knows gpt2, llama; give --tokenizer"),
        ({**VOCABULARY, "pre": "viking"}, "ModelInvalid", "splits words in the way 'viking'"),
        ({**VOCABULARY, "token_type": [1]}, "ModelInvalid", "5 tokens and 1 types"),
        ({**VOCABULARY, "merges": ["a c"]}, "ModelInvalid", "cannot be used"),
        ({**VOCABULARY, "merges": ["ab"]}, "ModelInvalid", "cannot be used"),
        ({**VOCABULARY, "model": "llama"}, "ModelInvalid", "5 tokens and 0 scores"),
        ({key: VOCABULARY[key] for key in ("model", "tokens")}, "ModelInvalid", "has no merges"),
    ],
)
def test_what_is_no_tokenizer_is_said(keys, reason, says, gguf_tokenizer):
    with pytest.raises(ModelUnavailable) as raised:
        gguf_tokenizer("llama", **keys)
    assert raised.value.reason == reason
    assert says in str(raised.value)
    assert "model.gguf" in str(raised.value)
