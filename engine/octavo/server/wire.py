"""Answers in OpenAI's shapes, as bytes. Of a chunk only the text is encoded when it is sent; what is around it is made
once a request. Which chunk when is `octavo.server.generation`'s."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from octavo.outputs import FinishReason

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode

Kind = Literal["completion", "chat"]


class Usage(Struct, kw_only=True):
    """Tokens of a request, all its choices together."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    def content(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Choice(Struct, kw_only=True):
    """One whole answer."""

    index: int
    text: str
    finish_reason: FinishReason | None
    stop_reason: str | int | None


class Wire:
    """The bytes of one request's answer."""

    def __init__(self, kind: Kind, answer_id: str, created: int, model: str, *, include_usage: bool = False) -> None:
        self._chat = kind == "chat"
        self._head = {"id": answer_id, "object": "chat.completion" if self._chat else "text_completion", "created": created, "model": model}
        chunk = {**self._head, "object": "chat.completion.chunk"} if self._chat else self._head
        self._event = b"data: " + _encode(chunk)[:-1]
        usage = b',"usage":null' if include_usage else b""
        self._before = self._event + b',"choices":[{"index":%d,' + (b'"delta":{"content":' if self._chat else b'"text":')
        self._after = (b"}" if self._chat else b"") + b',"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"
        self._usage = usage
        self._befores: dict[int, bytes] = {}

    def first(self, index: int) -> bytes:
        """What comes before an answer's text: in a chat the role."""
        if not self._chat:
            return b""
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return self._chunk(choice)

    def delta(self, index: int, text: str) -> bytes:
        before = self._befores.get(index)
        if before is None:
            before = self._befores[index] = self._before % index
        return b"".join((before, _encode(text), self._after))

    def last(self, choice: Choice) -> bytes:
        """The end of an answer, with the text that is still to send."""
        content = {"delta": {"content": choice.text} if choice.text else {}} if self._chat else {"text": choice.text}
        ending = {"index": choice.index, **content, "logprobs": None, "finish_reason": choice.finish_reason, "stop_reason": choice.stop_reason}
        return self._chunk(ending)

    def usage(self, usage: Usage) -> bytes:
        return self._event + b',"choices":[],"usage":' + _encode(usage.content()) + b"}\n\n"

    def whole(self, choices: Sequence[Choice], usage: Usage) -> bytes:
        """The body of an answer that is not streamed."""
        listed = [
            {
                "index": choice.index,
                **({"message": {"role": "assistant", "content": choice.text}} if self._chat else {"text": choice.text}),
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for choice in choices
        ]
        return _encode({**self._head, "choices": listed, "usage": usage.content()})

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._event + b',"choices":[' + _encode(choice) + b"]" + self._usage + b"}\n\n"


def token_comment(token_ids: Sequence[int]) -> bytes:
    """The line before a chunk that tells a gateway, and no client, which tokens are in it."""
    return b": t " + ",".join(map(str, token_ids)).encode() + b"\n"
