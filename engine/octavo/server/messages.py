"""Chat messages as a chat template wants them: roles known, text parts joined, calls of tools with their arguments as objects.

Rendering is left to the tokenizer's template.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from octavo_api.errors import InvalidSetting

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_FIELDS = frozenset(("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning_content", "reasoning"))


def for_template(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Raises:
        InvalidSetting: naming the message by its index.
    """
    if not messages:
        raise InvalidSetting("messages: is empty, must have at least one message")
    return [_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _message(where: str, message: Mapping[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise InvalidSetting(f"{where}.role: is {role!r}, must be one of {', '.join(ROLES)}")
    found = {key: value for key, value in message.items() if value is not None}
    for key in found:
        if key not in _FIELDS:
            reason = "models read and write text only" if key == "audio" else f"there is no such field; there is {', '.join(sorted(_FIELDS))}"
            raise InvalidSetting(f"{where}.{key}: {reason}")
    if "content" not in found and not ("tool_calls" in found or "function_call" in found or "refusal" in found):
        raise InvalidSetting(f"{where}.content: is missing")
    found["content"] = _text(f"{where}.content", found.get("content", found.get("refusal", "")))
    if "tool_calls" in found:
        found["tool_calls"] = _calls(f"{where}.tool_calls", found["tool_calls"])
    return found


def _text(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidSetting(f"{where}: is {type(content).__name__}, must be text or a list of text parts")
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        text = part.get("refusal" if kind == "refusal" else "text") if isinstance(part, dict) else None
        if kind not in ("text", "refusal"):
            raise InvalidSetting(f"{where}[{index}]: is of type {kind!r}; models read text only")
        if not isinstance(text, str):
            raise InvalidSetting(f"{where}[{index}].{kind}: is missing or no text")
        texts.append(text)
    return "\n".join(texts)


def _calls(where: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidSetting(f"{where}: must be a list of calls")
    found = []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidSetting(f"{where}[{index}].function: must be an object with a name")
        arguments = function.get("arguments", "{}")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError as error:
                raise InvalidSetting(f"{where}[{index}].function.arguments: is not JSON: {error}") from error
        found.append({**call, "function": {**function, "arguments": arguments}})
    return found
