"""One question to a model through the gateway, the answer streamed as any client would see it."""

import json
from collections.abc import AsyncIterator

import httpx

from octavo_api.errors import OctavoError


class NoAnswer(OctavoError):
    """The gateway or the model refused, or the stream broke off; the text says how."""


async def answer(gateway: str, model: str, question: str) -> AsyncIterator[str]:
    """Pieces of the likeliest answer as they arrive. `gateway` is a URL that ends in /v1.

    Raises:
        NoAnswer: before or in the middle of the answer.
    """
    body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": True, "temperature": 0}
    timeout = httpx.Timeout(10.0, read=None)
    try:
        async with (
            httpx.AsyncClient(timeout=timeout, trust_env=False) as http,
            http.stream("POST", f"{gateway}/chat/completions", json=body) as response,
        ):
            if not response.is_success:
                raise NoAnswer(f"status {response.status_code}: {_message((await response.aread()).decode(errors='replace'))}")
            async for piece in _pieces(response):
                yield piece
    except httpx.HTTPError as error:
        raise NoAnswer(f"{gateway}: {str(error) or type(error).__name__}") from error


async def _pieces(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:"):
            continue
        if data == "[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise NoAnswer(_message(data))
        for choice in chunk.get("choices", ()):
            yield choice["delta"].get("content") or ""
    raise NoAnswer("the stream ended before the answer did")


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text
