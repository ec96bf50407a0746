"""A tokenizer out of a GGUF file's metadata, which has the vocabulary but not how text is split before it.

That is known by a name (`tokenizer.ggml.pre`), or not at all. Where llama.cpp's files differ from the tokenizer.json
that a model was trained with, tokenizer.json is right. How the file is read is left to `octavo.loader.gguf_file`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from octavo.text.pieces import byte_alphabet
from octavo.text.source import TokenizerSource, end_token_ids, surround
from octavo_api.errors import ModelUnavailable

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5  # tokenizer.ggml.token_type
_SPACE = "▁"

_LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_GPT2 = ("default", "gpt2", "gpt-2")
_DIGITS = ("smollm", "starcoder", "refact", "command-r")
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_QWEN2 = ("qwen2",)

_QWEN2_PLAIN = frozenset(("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"))
"""Control tokens in llama.cpp's files; added tokens that are shown like text in Qwen's own."""

_NAMES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def gguf_source(metadata: Mapping[str, Any], where: str) -> TokenizerSource:
    """
    Args:
        metadata: of the file, by llama.cpp's keys.
        where: the file, for messages.

    Raises:
        ModelUnavailable: `TokenizerNotFound`, the file has none; `ModelInvalid`, Octavo does not know its kind or
            what it says does not go together.
    """
    model = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if model is None or not tokens:
        raise ModelUnavailable("TokenizerNotFound", f"{where}: has no tokenizer in it; give --tokenizer the folder of one")
    families = {"gpt2": _byte_level, "llama": _sentence_piece}
    if model not in families:
        raise _invalid(where, f"its tokenizer is of the kind {model!r}, Octavo knows {', '.join(families)}")
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise _invalid(where, f"it has {len(tokens)} tokens and {len(types)} types of tokens")
    try:
        backend = families[model](metadata, tokens, types)
        backend.add_tokens(list(_added_tokens(backend, tokens, types, metadata.get("tokenizer.ggml.pre") in _QWEN2)))
        special = _special_tokens(metadata, backend)
        surround(backend, *_surrounding(metadata, special))
    except ModelUnavailable:
        raise
    except Exception as error:  # tokenizers raises nothing more exact
        raise _invalid(where, f"its tokenizer cannot be used: {error}") from error
    declared = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return TokenizerSource(backend, special, end_token_ids(backend, declared), _chat_templates(metadata))


def _invalid(where: str, cause: str) -> ModelUnavailable:
    return ModelUnavailable("ModelInvalid", f"{where}: {cause}; give --tokenizer the folder of this model's tokenizer.json")


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    """GPT-2's kind: text is split into words by a regular expression, then its UTF-8 bytes are merged."""
    pre = metadata.get("tokenizer.ggml.pre") or ("qwen2" if str(metadata.get("general.architecture")).startswith("qwen") else "default")
    if pre not in (*_GPT2, *_DIGITS, *_LLAMA3, *_QWEN2):
        known = ", ".join((*_GPT2, *_DIGITS, *_LLAMA3, *_QWEN2))
        raise ValueError(f"it splits words in the way {pre!r}, Octavo knows {known}")
    if "tokenizer.ggml.merges" not in metadata:
        raise ValueError("it has no merges")
    bytes_of = byte_alphabet()
    spelled = {byte: character for character, byte in bytes_of.items()}
    vocabulary = {}
    for index, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind == _UNUSED:
            continue
        raw = kind not in (_CONTROL, _USER_DEFINED) and not all(character in bytes_of for character in token)
        vocabulary["".join(spelled[byte] for byte in token.encode()) if raw else token] = index
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in _LLAMA3))
    backend.decoder = decoders.ByteLevel()
    if pre in _QWEN2:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _splitter(pre)
    return backend


def _splitter(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre in (*_LLAMA3, *_QWEN2):
        split = pre_tokenizers.Split(Regex(_LLAMA3_WORDS if pre in _LLAMA3 else _QWEN2_WORDS), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words]) if pre in _DIGITS else words


def _sentence_piece(metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> tokenizers.Tokenizer:
    """SentencePiece's kind: spaces are ▁, characters are merged, unknown ones are spelled in bytes."""
    gemma = str(metadata.get("general.architecture")).startswith("gemma")
    scores = metadata.get("tokenizer.ggml.scores")
    if not gemma and (scores is None or len(scores) != len(tokens)):
        raise ValueError(f"it has {len(tokens)} tokens and {len(scores or ())} scores")
    if gemma:  # whose scores do not follow the order of its merges, but whose tokens do
        tokens = [_SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
        scores = None
    vocabulary = {token: index for index, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != _UNUSED}
    unknown_id = metadata.get("tokenizer.ggml.unknown_token_id", types.index(_UNKNOWN) if _UNKNOWN in types else None)
    unknown = None if unknown_id is None else tokens[unknown_id]
    merges = [tuple(merge.split(" ")) for merge in metadata.get("tokenizer.ggml.merges", ())] or _implied_merges(vocabulary, scores)
    bpe = models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(bpe)
    spaces = normalizers.Replace(" ", _SPACE)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if gemma:
        backend.normalizer = spaces
        backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    elif metadata.get("tokenizer.ggml.add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        steps.append(decoders.Strip(" ", 1, 0))
    else:
        backend.normalizer = spaces
    backend.decoder = decoders.Sequence(steps)
    return backend


def _implied_merges(vocabulary: Mapping[str, int], scores: list[float] | None) -> list[tuple[str, str]]:
    """Every way to make a token of two others; the best token first, or without scores in their order; of one token the longest left part first."""
    merges = [
        (left, right)
        for token in vocabulary
        for split in range(len(token) - 1, 0, -1)
        if (right := token[split:]) in vocabulary and (left := token[:split]) in vocabulary
    ]
    if scores is not None:
        merges.sort(key=lambda pair: (-scores[vocabulary[pair[0] + pair[1]]], -len(pair[0]), -len(pair[1])))
    return merges


def _added_tokens(backend: tokenizers.Tokenizer, tokens: list[str], types: list[int], qwen2: bool) -> Iterator[AddedToken]:
    """Tokens that are found in a text as a whole, before it is split; special ones are left out of answers."""
    for token, kind in zip(tokens, types, strict=True):
        if kind in (_CONTROL, _USER_DEFINED) and backend.token_to_id(token) is not None:
            yield AddedToken(token, normalized=False, special=kind == _CONTROL and not (qwen2 and token in _QWEN2_PLAIN))


def _special_tokens(metadata: Mapping[str, Any], backend: tokenizers.Tokenizer) -> dict[str, str]:
    found = {}
    for name, key in _NAMES.items():
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        token = None if token_id is None else backend.id_to_token(token_id)
        if token is not None:
            found[name] = token
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in found.values()])
    return found


def _surrounding(metadata: Mapping[str, Any], special: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Which tokens a text gets before and after it; files that do not say so mean what llama.cpp takes them to mean."""
    by_default = metadata["tokenizer.ggml.model"] == "llama" or metadata.get("tokenizer.ggml.pre") in _LLAMA3
    before = metadata.get("tokenizer.ggml.add_bos_token", by_default)
    after = metadata.get("tokenizer.ggml.add_eos_token", False)
    return (special.get("bos_token") if before else None), (special.get("eos_token") if after else None)


def _chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    prefix = "tokenizer.chat_template"
    found = {"default": metadata[prefix]} if prefix in metadata else {}
    return found | {key.removeprefix(prefix + "."): metadata[key] for key in metadata if key.startswith(prefix + ".")}
