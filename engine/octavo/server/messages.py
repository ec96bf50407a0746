"""Which chat messages there are: roles and fields that are known, so that a misspelt one changes no answer in silence.

What a template makes of them is left to `octavo.text.chat_template`.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from octavo_api.errors import InvalidSetting

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning_content", "reasoning")
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "refusal")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages, each with a content.

    Raises:
        InvalidSetting: naming the message by its index.
    """
    if not messages:
        raise InvalidSetting("messages: is empty, must have at least one message")
    return [_check(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _check(where: str, message: Mapping[str, Any]) -> Mapping[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise InvalidSetting(f"{where}.role: is {role!r}, must be one of {', '.join(ROLES)}")
    for key, value in message.items():
        if key not in _FIELDS and value is not None:
            near = difflib.get_close_matches(key, _FIELDS, n=1)
            hint = "models read and write text only" if key == "audio" else "there is no such field" + (f"; did you mean {near[0]}?" if near else "")
            raise InvalidSetting(f"{where}.{key}: {hint}")
    content = message.get("content")
    if content is None:
        if not any(message.get(key) is not None for key in _INSTEAD_OF_CONTENT):
            raise InvalidSetting(f"{where}.content: is missing")
        return {**message, "content": message.get("refusal") or ""}
    if not isinstance(content, (str, list)):
        raise InvalidSetting(f"{where}.content: is of type {type(content).__name__}, must be text or a list of text parts")
    return message
