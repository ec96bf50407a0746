"""What a tokenizer is made of, whichever files it comes from."""

from collections.abc import Iterable, Mapping

import tokenizers
from msgspec import Struct

END_NAMES = frozenset(
    (
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<|end_of_turn|>",
    )
)
"""Special tokens that end an answer in every model that has them, its own end-of-sequence token besides."""


class TokenizerSource(Struct, frozen=True):
    """Made by `gguf_source` and `folder_source`.

    `backend` does the encoding. `special_tokens` are by the names that templates use (`bos_token`, …), `end_token_ids`
    end an answer, `chat_templates` are template texts by name.
    """

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]
    end_token_ids: tuple[int, ...]
    chat_templates: Mapping[str, str]


def end_token_ids(backend: tokenizers.Tokenizer, declared: Iterable[int | None]) -> tuple[int, ...]:
    """The declared ones first, then the special tokens that are known by name; once each."""
    added = backend.get_added_tokens_decoder()
    named = sorted(token_id for token_id, token in added.items() if token.special and token.content in END_NAMES)
    return tuple(dict.fromkeys([*(token_id for token_id in declared if token_id is not None), *named]))


def surround(backend: tokenizers.Tokenizer, bos: str | None, eos: str | None) -> None:
    """Has `encode` put these special tokens before and after a text, and no others."""
    ids = {token: backend.token_to_id(token) for token in (bos, eos) if token is not None}
    single = [token for token in (bos, "$A", eos) if token is not None]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single=single, special_tokens=list(ids.items()))
