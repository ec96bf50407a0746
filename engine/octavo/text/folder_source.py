"""A tokenizer out of a model folder: tokenizer.json, and what the files beside it say about special tokens and chats."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from octavo.text.source import TokenizerSource, end_token_ids, surround
from octavo_api.errors import ModelUnavailable

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def folder_source(path: Path) -> TokenizerSource:
    """
    Args:
        path: a tokenizer.json, with the other files, if any, in the same folder.

    Raises:
        ModelUnavailable: `ModelInvalid`, a file is broken or they do not go together.
    """
    config = {**_object(path.with_name("special_tokens_map.json")), **_object(path.with_name("tokenizer_config.json"))}
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more exact
        raise ModelUnavailable(
            "ModelInvalid", f"{path}: not a usable tokenizer: {error}; fetch it again, or give --tokenizer the folder of another one"
        ) from error
    backend.no_truncation()
    backend.no_padding()
    special = {name: text for name in _SPECIAL if (text := _token_text(config.get(name))) is not None}
    _add_missing(path, backend, config, special)
    _surround_as_told(backend, config, special)
    eos = special.get("eos_token")
    declared = [backend.token_to_id(eos)] if eos is not None else []
    return TokenizerSource(backend, special, end_token_ids(backend, declared), dict(_chat_templates(path, config)))


def _object(path: Path) -> dict[str, Any]:
    """A file's JSON object; an empty one when there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnavailable("ModelInvalid", f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelUnavailable("ModelInvalid", f"{path}: must be a JSON object, is {type(found).__name__}")
    return found


def _token_text(token: Any) -> str | None:
    """A token as these files write it: text, or an object with its `content`."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _add_missing(path: Path, backend: tokenizers.Tokenizer, config: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """Adds tokens that only the other files know of: of their own ids first, then special ones that have none."""
    numbered: dict[int, AddedToken] = {}
    for token, token_id in _object(path.with_name("added_tokens.json")).items():
        numbered[token_id] = AddedToken(token, normalized=False, special=token in special.values())
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    for key, entry in (config.get("added_tokens_decoder") or {}).items():
        if (text := _token_text(entry)) is not None:
            numbered[int(key)] = AddedToken(text, **{flag: bool(entry[flag]) for flag in flags if flag in entry})
    for token_id, added in sorted(numbered.items(), key=lambda item: item[0]):
        if backend.token_to_id(added.content) is None:
            backend.add_tokens([added])
        found = backend.token_to_id(added.content)
        if found != token_id:
            text = f"{path.parent}: the token {added.content!r} has the id {found} in {path.name} and {token_id} in the other files"
            raise ModelUnavailable("ModelInvalid", f"{text}; give --tokenizer the folder of the right one")
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    wanted = [*special.values(), *filter(None, map(_token_text, extra.values() if isinstance(extra, dict) else extra))]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in dict.fromkeys(wanted) if token not in known])


def _surround_as_told(backend: tokenizers.Tokenizer, config: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """`add_bos_token` and `add_eos_token`, where the files have them, prevail over what tokenizer.json adds to a text."""
    bos, eos = special.get("bos_token"), special.get("eos_token")
    added = backend.encode("").tokens
    has_bos = added[:1] == [bos]
    has_eos = added[has_bos:][-1:] == [eos]
    wants_bos, wants_eos = config.get("add_bos_token"), config.get("add_eos_token")
    after = (has_bos if wants_bos is None or bos is None else bool(wants_bos), has_eos if wants_eos is None or eos is None else bool(wants_eos))
    if after != (has_bos, has_eos):
        surround(backend, bos if after[0] else None, eos if after[1] else None)


def _chat_templates(path: Path, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """By name. A file of its own prevails over one within the other files."""
    within = _object(path.with_name("chat_template.json")).get("chat_template"), config.get("chat_template")
    for found in within:
        if isinstance(found, str):
            yield "default", found
        elif isinstance(found, list):
            yield from ((entry["name"], entry["template"]) for entry in found if isinstance(entry, dict) and {"name", "template"} <= entry.keys())
    for file in sorted(path.parent.glob("additional_chat_templates/*.jinja")):
        yield file.stem, file.read_text(encoding="utf-8")
    if (file := path.with_name("chat_template.jinja")).is_file():
        yield "default", file.read_text(encoding="utf-8")
