"""The response to one admitted request: the engine's outputs as a stream of ready bytes, or as one body.

Nothing is sent before the first output, so that a request which fails until then gets a status that says so.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence

from msgspec import Struct
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from octavo.outputs import RequestOutput
from octavo.server.errors import Refusal
from octavo.server.hang_up import unless_left
from octavo.server.record import Record
from octavo.server.service import Service
from octavo.server.wire import DONE, Choice, Usage, Wire, token_comment

Outputs = AsyncGenerator[RequestOutput, None]

_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
_JSON = (b"content-type", b"application/json")


class Form(Struct, frozen=True, kw_only=True):
    """How the client wants it."""

    stream: bool
    include_usage: bool
    token_ids: bool


class Generation(Response):
    """`outputs` are the request's choices in order; none of them has begun."""

    background = None

    def __init__(self, service: Service, record: Record, outputs: Sequence[Outputs], wire: Wire, form: Form) -> None:
        self.status_code = 200
        self._service = service
        self._record = record
        self._outputs = outputs
        self._wire = wire
        self._form = form
        self._choices = [Choice(index=index, text="", finish_reason=None, stop_reason=None) for index in range(len(outputs))]
        self._cached = [0] * len(outputs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  the interface has it
        await unless_left(receive, self._answer(send))

    async def _answer(self, send: Send) -> None:
        """Ends by the answer's end, an error, or the caller's cancelling because the client has left."""
        try:
            async with contextlib.aclosing(merged(self._outputs)) as outputs:
                await (self._stream(outputs, send) if self._form.stream else self._whole(outputs, send))
        finally:
            self._service.metrics.finished(self._record)

    async def _whole(self, outputs: AsyncGenerator[tuple[int, RequestOutput], None], send: Send) -> None:
        texts: list[list[str]] = [[] for _ in self._choices]
        async for index, output in outputs:
            error = self._take_in(index, output)
            if error is not None:
                raise error
            texts[index].append(output.outputs[0].text)
        for choice, pieces in zip(self._choices, texts, strict=True):
            choice.text = "".join(pieces)
        await send_body(send, 200, self._wire.whole(self._choices, self._usage()))

    async def _stream(self, outputs: AsyncGenerator[tuple[int, RequestOutput], None], send: Send) -> None:
        begun = False
        unsent: list[list[int]] = [[] for _ in self._choices]
        new = set(range(len(self._choices)))
        async for index, output in outputs:
            error = self._take_in(index, output)
            if error is not None and not begun:
                raise error
            if not begun:
                begun = True
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            if error is not None:
                event = b"data: " + error.body(self._record.request_id) + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": False})
                return
            chunk = self._wire.first(index) if index in new else b""
            new.discard(index)
            chunk += self._chunk(index, output, unsent[index])
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        end = (self._wire.usage(self._usage()) if self._form.include_usage else b"") + DONE
        await send({"type": "http.response.body", "body": end, "more_body": False})

    def _chunk(self, index: int, output: RequestOutput, unsent: list[int]) -> bytes:
        """The event of an output; nothing while its text is held back. `unsent` are tokens whose event is still to come."""
        new = output.outputs[0]
        unsent += new.token_ids
        if output.finished:
            choice = self._choices[index]
            choice.text = new.text
            event = self._wire.last(choice)
        elif new.text:
            event = self._wire.delta(index, new.text)
        else:
            return b""
        if self._form.token_ids and unsent:
            event = token_comment(unsent) + event
        unsent.clear()
        return event

    def _take_in(self, index: int, output: RequestOutput) -> Refusal | None:
        """Notes what an output says; returns the error that it may be."""
        record, new = self._record, output.outputs[0]
        if new.token_ids:
            record.output_tokens += len(new.token_ids)
            if record.first_token is None:
                record.first_token = time.perf_counter()
        if output.num_cached_tokens > self._cached[index]:
            self._cached[index] = output.num_cached_tokens
            record.cached_tokens = sum(self._cached)
        if not output.finished:
            return None
        record.finish_reason = new.finish_reason or ""
        if new.finish_reason in ("error", "abort"):
            return Refusal(500, output.error or "the request was aborted because the server ends", code="engine_error")
        choice = self._choices[index]
        choice.finish_reason, choice.stop_reason = new.finish_reason, new.stop_reason
        return None

    def _usage(self) -> Usage:
        record = self._record
        return Usage(prompt_tokens=record.prompt_tokens, completion_tokens=record.output_tokens, cached_tokens=min(record.cached_tokens, record.prompt_tokens))


async def merged(generators: Sequence[Outputs]) -> AsyncGenerator[tuple[int, RequestOutput], None]:
    """The outputs of all, each with its index, as they come; closing it closes them."""
    if len(generators) == 1:
        async with contextlib.aclosing(generators[0]) as only:
            async for output in only:
                yield 0, output
        return
    ready: asyncio.Queue[tuple[int, RequestOutput | Exception]] = asyncio.Queue(maxsize=len(generators))

    async def pump(index: int, outputs: Outputs) -> None:
        try:
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    await ready.put((index, output))
        except Exception as error:
            await ready.put((index, error))

    pumps = [asyncio.ensure_future(pump(*pair)) for pair in enumerate(generators)]
    try:
        running = len(pumps)
        while running:
            index, found = await ready.get()
            if isinstance(found, Exception):
                raise found
            running -= found.finished
            yield index, found
    finally:
        for one in pumps:
            one.cancel()
        await asyncio.wait(pumps)


async def send_body(send: Send, status: int, body: bytes) -> None:
    """One whole JSON response."""
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
