"""How a model's text is read and written: its tokenizer, its chat template, and what its files say about sampling.

Everything here is of one model and does not change once it is loaded. What a token means is left to `octavo.text`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from octavo.generation_defaults import eos_token_ids, read_config, sampling_defaults
from octavo.in_thread import in_thread
from octavo.sampling_params import SamplingParams
from octavo.text.detokenizer import Detokenizer
from octavo.text.tokenizer import Tokenizer
from octavo_api.errors import OctavoError

LONG_TEXT = 4096
"""Characters from which on a text is tokenised in a thread, so that the loop goes on; about two milliseconds' work."""
MAX_THREADS = 2
"""Texts that are tokenised in threads at once; more wait."""


class TextOptions(Struct, frozen=True, kw_only=True):
    """Where a model's text is not to be read and written its own way.

    `tokenizer` is the folder or file of another tokenizer, `chat_template` the text of another template. Without a
    tokenizer, by `skip_tokenizer_init`, prompts are token ids, and so are answers.
    """

    tokenizer: str | None = None
    chat_template: str | None = None
    skip_tokenizer_init: bool = False


class ModelText:
    """Attributes:
    defaults: sampling parameters of requests that bring none.
    eos_token_ids: tokens that end an answer.
    has_tokenizer: whether there can be text.
    """

    def __init__(self, path: Path, options: TextOptions, *, neutral: bool = False) -> None:
        """Reads the files of a model; `neutral` defaults of sampling parameters are not the model's own.

        Raises:
            ModelUnavailable: one of them is missing or makes no sense.
        """
        self._threads = asyncio.Semaphore(MAX_THREADS)
        self._tokenizer = None if options.skip_tokenizer_init else Tokenizer.from_path(Path(options.tokenizer or path), options.chat_template)
        self.has_tokenizer = self._tokenizer is not None
        generation_config = read_config(path, "generation_config.json")
        self.defaults = SamplingParams() if neutral else sampling_defaults(generation_config)
        of_tokenizer = self._tokenizer.eos_token_ids if self._tokenizer is not None else ()
        self.eos_token_ids = tuple(dict.fromkeys((*eos_token_ids(generation_config, read_config(path, "config.json")), *of_tokenizer)))

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises OctavoError with `skip_tokenizer_init`."""
        if self._tokenizer is None:
            raise OctavoError("there is no tokenizer: skip_tokenizer_init was asked for")
        return self._tokenizer

    def detokenizer(self, prompt: list[int], sampling: SamplingParams) -> Detokenizer | None:
        """What makes text of one answer; None when none is wanted."""
        return Detokenizer(self.tokenizer, prompt, sampling) if sampling.detokenize and self.has_tokenizer else None

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """A prompt's token ids."""
        tokenizer = self.tokenizer
        if len(text) < LONG_TEXT:
            return tokenizer.encode(text, add_special_tokens=add_special_tokens)
        async with self._threads:
            return await in_thread(lambda: tokenizer.encode(text, add_special_tokens=add_special_tokens))

    async def encode_chat(self, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any], *, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a conversation in the chat template, which gets the keywords `template`.

        Raises:
            InvalidSetting: there is no template, or it refuses these messages.
        """
        if sum(len(str(message.get("content"))) for message in messages) < LONG_TEXT:
            return self.encode_chat_now(messages, template, add_special_tokens=add_special_tokens)
        async with self._threads:
            return await in_thread(lambda: self.encode_chat_now(messages, template, add_special_tokens=add_special_tokens))

    def encode_chat_now(self, messages: Sequence[Mapping[str, Any]], template: Mapping[str, Any], *, add_special_tokens: bool = False) -> list[int]:
        """`encode_chat` for callers without a loop to keep going."""
        tokenizer = self.tokenizer
        text = tokenizer.apply_chat_template(messages, **template)
        return tokenizer.encode(text, add_special_tokens=add_special_tokens)
