"""From a conversation to the text that a model was trained to read it in, by the Jinja template that comes with the model.

Which fields a message may have is left to the server: here they reach the template as they are, but that parts of text
are joined and fields without a value left out.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from octavo.text.sandbox import Sandbox, TemplateOverrun, TemplateRefusal
from octavo_api.errors import InvalidSetting, ModelUnavailable

Message = Mapping[str, Any]

_CUT = "here the final message ends, to be continued "
_REASONING = ("reasoning_content", "thinking", "reasoning")
_RESERVED = ("messages", "chat_template")


class ChatTemplate:
    """A model's chat template, or its several: `default`, and others such as `tool_use` for chats with tools."""

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str], sandbox: Sandbox | None = None) -> None:
        """
        Args:
            sources: template text by name.
            special_tokens: what templates know as `bos_token`, `eos_token` and so on.

        Raises:
            ModelUnavailable: `ModelInvalid`, a template is none; with its line.
        """
        self._special_tokens = dict(special_tokens)
        self._sandbox = sandbox or Sandbox()
        self._templates = {}
        for name, source in sources.items():
            try:
                self._templates[name] = self._sandbox.compile(source)
            except jinja2.TemplateSyntaxError as error:
                text = f"chat template {name!r}, line {error.lineno}: {error.message}; give --chat-template the file of another one"
                raise ModelUnavailable("ModelInvalid", text) from error

    def render(self, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """The prompt's text, special tokens and all, so that it is encoded without adding any.

        Args:
            messages: role and content, and what else the template knows.
            values: what the template knows besides. `add_generation_prompt` (the default) has the assistant's turn
                begin, `continue_final_message` has its last one go on instead; `tools`, `enable_thinking` and so on.

        Raises:
            InvalidSetting: the messages are not what the template takes, or ask for what does not go together.
        """
        values = {"tools": None, "documents": None, **self._special_tokens, **values}
        resume = values.pop("continue_final_message", None) or False
        begin = values.setdefault("add_generation_prompt", not resume)
        _check(messages, values)
        if resume and begin:
            raise InvalidSetting("continue_final_message: goes on with the last message, so add_generation_prompt must be false")
        values["tools"] = values["tools"] or None
        chat = [_plain(index, message) for index, message in enumerate(messages)]
        final = _mark_end(chat) if resume else ""
        text = self._render("tool_use" if values["tools"] and "tool_use" in self._templates else "default", {**values, "messages": chat})
        return _cut(text, final) if resume else text

    def _render(self, name: str, values: Mapping[str, Any]) -> str:
        if name not in self._templates:
            known = ", ".join(self._templates)
            raise InvalidSetting(f"chat template: the model has none named {name!r}, it has {known}; give --chat-template the file of one")
        try:
            return self._sandbox.render(self._templates[name], values)
        except TemplateRefusal as error:
            raise InvalidSetting(f"messages: the model's chat template refuses them: {error}") from error
        except TemplateOverrun as error:
            raise InvalidSetting(f"messages: the model's chat template cannot be used: {error}; give --chat-template the file of another one") from error
        except Exception as error:  # what messages make a template do is anybody's guess
            raise InvalidSetting(f"messages: the model's chat template cannot render them: {type(error).__name__}: {error}") from error


def _check(messages: Sequence[Message], values: Mapping[str, Any]) -> None:
    for name in _RESERVED:
        if name in values:
            raise InvalidSetting(f"{name}: cannot be set for a chat template; it gets the request's messages and is the server's own")
    if not messages:
        raise InvalidSetting("messages: is empty, must have at least one message")


def _plain(index: int, message: Message) -> dict[str, Any]:
    """A message for the template: text parts joined, fields without a value left out, arguments of calls as objects."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidSetting(f"messages[{index}]: must be an object with a role")
    plain = {key: value for key, value in message.items() if value is not None}
    if isinstance(plain.get("content"), (list, tuple)):
        plain["content"] = "\n".join(_text_of(f"messages[{index}].content[{number}]", part) for number, part in enumerate(plain["content"]))
    if isinstance(plain.get("tool_calls"), list):
        plain["tool_calls"] = [_call(call) for call in plain["tool_calls"]]
    reasoning = next((plain[key] for key in _REASONING if key in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _text_of(where: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    text = part.get(kind) if isinstance(part, Mapping) and kind in ("text", "refusal") else None
    if not isinstance(text, str):
        raise InvalidSetting(f"{where}: is a part of type {kind!r}; the model reads text alone, in parts of type 'text'")
    return text


def _call(call: Any) -> Any:
    """A tool call whose arguments are an object, which templates write as JSON, not the JSON that the OpenAI API has."""
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(arguments, str):
        return call
    try:
        parsed = json.loads(arguments or "{}")
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": parsed}} if isinstance(parsed, dict) else call


def _mark_end(chat: list[dict[str, Any]]) -> str:
    """Marks where the last message ends, which is to be continued; returns its text."""
    final = chat[-1].get("content")
    if not isinstance(final, str):
        raise InvalidSetting(f"continue_final_message: the last message, messages[{len(chat) - 1}], has no content to continue")
    chat[-1]["content"] = final + _CUT
    return final


def _cut(text: str, final: str) -> str:
    """The text up to the mark; trailing blanks as the template leaves them."""
    end = text.rfind(_CUT.strip())
    if end < 0 or final.strip() not in text:
        raise InvalidSetting("continue_final_message: the model's chat template leaves out or changes the last message, so it cannot be continued")
    return text[:end] if text.startswith(_CUT, end) else text[:end].rstrip()
