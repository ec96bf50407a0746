"""A model's tokenizer, from a model folder, a tokenizer.json or a GGUF file: text to token ids and back, chats to text.

Built on the `tokenizers` library alone: the API process has no torch. Text that grows with its tokens is left to
`octavo.text.detokenizer`.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer as Backend

from octavo.loader.gguf_file import GgufFile
from octavo.text.chat_template import ChatTemplate
from octavo.text.folder_source import folder_source
from octavo.text.gguf_source import gguf_source
from octavo.text.pieces import Pieces, Spelling, TextStream
from octavo.text.source import TokenizerSource
from octavo_api.errors import InvalidSetting, ModelUnavailable

_OTHER_FORMATS = ("tokenizer.model", "vocab.json", "tekken.json")


class Tokenizer:
    """Made by `from_path`. May be used by several threads at once.

    Attributes:
        eos_token_ids: tokens that end an answer: end of sequence, end of turn.
        special_tokens: by the names that chat templates use: `bos_token`, `eos_token`, …
    """

    def __init__(self, source: TokenizerSource) -> None:
        """
        Raises:
            ModelUnavailable: `ModelInvalid`, its decoder or chat template cannot be used.
        """
        self._backend = source.backend
        self.special_tokens: Mapping[str, str] = source.special_tokens
        self.eos_token_ids = source.end_token_ids
        self._template = ChatTemplate(source.chat_templates, source.special_tokens) if source.chat_templates else None
        spelling = Spelling(_decoder_of(source.backend))
        special = (token_id for token_id, token in source.backend.get_added_tokens_decoder().items() if token.special)
        self._pieces = {True: Pieces(source.backend, spelling, frozenset(special)), False: Pieces(source.backend, spelling, frozenset())}

    @classmethod
    def from_path(cls, path: Path, chat_template: str | None = None) -> "Tokenizer":
        """Reads a tokenizer; about half a second for 150,000 tokens.

        Args:
            path: a model folder, a tokenizer.json or a GGUF file.
            chat_template: text of another chat template than the model's.

        Raises:
            ModelUnavailable: `TokenizerNotFound`, there is none; `ModelInvalid`, it is broken or of an unknown kind.
        """
        source = _source(path)
        return cls(msgspec.structs.replace(source, chat_templates={"default": chat_template}) if chat_template is not None else source)

    @cached_property
    def vocab_size(self) -> int:
        """Every token id is below it."""
        return max(self._backend.get_vocab().values(), default=-1) + 1

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """A text's token ids; special tokens written in it are found.

        Takes about 3 ms for 1,000 tokens. It does not hold the interpreter's lock meanwhile, so a long text is best
        encoded in a thread.

        Args:
            text: any text.
            add_special_tokens: put before and after it what the model expects there, such as `bos_token`.

        Raises:
            InvalidSetting: half of a surrogate pair is in the text.
        """
        try:
            (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)  # `encode` holds the lock
        except (UnicodeEncodeError, TypeError) as error:
            place = next((index for index, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
            if place is None:
                raise
            raise InvalidSetting(f"prompt: has half of a surrogate pair, {text[place]!r}, at character {place}; send whole characters") from error
        ids: list[int] = encoding.ids
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; bytes that are no text become U+FFFD, ids beyond the vocabulary nothing."""
        stream = TextStream(self._pieces[skip_special_tokens])
        return stream.push(ids) + stream.flush()

    def pieces(self, skip_special_tokens: bool) -> Pieces:
        """What each token spells, for incremental decoding."""
        return self._pieces[skip_special_tokens]

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], /, **template: Any) -> str:
        """A conversation as the model was trained to read it; to be encoded with `add_special_tokens=False`.

        Args:
            messages: objects with `role` and `content`, as in OpenAI's API.
            template: what the template knows besides: `add_generation_prompt` (default true), `continue_final_message`,
                `tools`, and the model's own, such as `enable_thinking`.

        Raises:
            InvalidSetting: there is no chat template, or it does not take these messages.
        """
        if self._template is None:
            raise InvalidSetting("messages: the model has no chat template; give --chat-template a file, or use /v1/completions")
        return self._template.render(messages, template)


def _source(path: Path) -> TokenizerSource:
    if path.is_dir():
        if (path / "tokenizer.json").is_file():
            return folder_source(path / "tokenizer.json")
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return _source(files[0])
        others = [name for name in _OTHER_FORMATS if (path / name).is_file()]
        found = f"has {' and '.join(others)}, which Octavo does not read, and no tokenizer.json" if others else "has no tokenizer.json"
        raise ModelUnavailable("TokenizerNotFound", f"{path}: {found}; give --tokenizer the folder of one")
    if not path.is_file():
        raise ModelUnavailable("TokenizerNotFound", f"{path}: there is no such tokenizer; give --tokenizer a folder with a tokenizer.json")
    if path.suffix == ".json":
        return folder_source(path)
    return gguf_source(GgufFile(path).metadata, str(path))


def _decoder_of(backend: Backend) -> dict[str, Any] | None:
    if backend.decoder is None:
        return None
    decoder: dict[str, Any] = json.loads(backend.decoder.__getstate__())
    return decoder
