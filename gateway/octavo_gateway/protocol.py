"""The client's side of a connection: HTTP/1.1 requests in, in order, one at a time; limits on all a client controls.

Requests that come before the last one is answered wait unread, first here, then in the client's own socket.
What a request means is left to the listener's `Service`.
"""

import asyncio
from typing import Literal, cast

from octavo_gateway.answers import CONTINUE, Answer, Refusal, refused, render
from octavo_gateway.deadlines import NEVER
from octavo_gateway.exchange import Exchange
from octavo_gateway.framing import MORE, BadFraming, Framing
from octavo_gateway.heads import RequestHead, check_beginning, new_request_id, parse_request
from octavo_gateway.request import Request
from octavo_gateway.service import Service

LINGER = 2.0
"""Seconds that a connection is read, and what comes thrown away, after its last response: a socket that is closed
with unread bytes resets the connection, and the client might lose the response."""

State = Literal["idle", "head", "body", "busy", "linger"]


class Incoming:
    """A request whose head is read and whose body comes. `begun` is the event loop's time, in seconds."""

    def __init__(self, head: RequestHead, begun: float) -> None:
        self.head = head
        self.begun = begun
        self.framing: Framing = head.framing()
        self.parts: list[bytes] = []

    def request(self) -> Request:
        return Request(self.head, self.parts[0] if len(self.parts) == 1 else b"".join(self.parts))


class ClientConnection(asyncio.Protocol):
    """One client. A `Client` for the exchange that is going on, if any."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings = service.settings
        self._deadlines = service.deadlines
        self._state: State = "idle"
        self._unread = b""
        self._incoming: Incoming | None = None
        self._held_bytes = 0
        self._exchange: Exchange | None = None
        self._unsent = 0
        self._half_closed = False
        self.deadline = NEVER
        self.paused = False
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before anything else

    @property
    def must_close(self) -> bool:
        """Whether the request at hand is the last one here."""
        return self._service.draining or (self._half_closed and not self._unread)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self._settings.write_high_water)
        self._service.opened(self)
        self._deadlines.watch(self)
        self.deadline = self._deadlines.now + self._settings.keep_alive_timeout
        if self._service.full:
            message = f"{self._settings.max_connections} connections are open already; try again later"
            self._refuse(Refusal(503, message, code="too_many_connections", retry_after=self._settings.retry_after))

    def connection_lost(self, _exc: Exception | None) -> None:
        self._deadlines.forget(self)
        self._service.closed(self)
        self.release_body()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_left()

    # Reading

    def data_received(self, data: bytes) -> None:
        if self._state == "linger":
            return
        self._unread = self._unread + data if self._unread else data
        self._advance()
        if len(self._unread) > self._settings.max_header_bytes and not self.transport.is_closing():
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client has said its last. One that still waits for a response has hung up: it cannot be told from
        one that closed the connection, and its replica should not work for nobody."""
        self._half_closed = True
        if self._exchange is not None:
            self.transport.abort()
        if self._exchange is not None or self._state == "linger":
            return False
        self._advance()
        return not self.transport.is_closing()

    def _advance(self) -> None:
        """Reads on until one request is whole and served, or more bytes are needed."""
        if self._state in ("busy", "linger") or self.paused or self.transport.is_closing():
            return
        try:
            incoming = self._incoming or self._read_head()
            if incoming is not None and self._read_body(incoming):
                self._serve(incoming)
            elif self._half_closed:
                self._end_of_requests()
        except Refusal as refusal:
            self._refuse(refusal)
        except BadFraming as error:
            self._refuse(Refusal(400, f"the request's body is malformed: {error}", code="bad_request"))

    def _end_of_requests(self) -> None:
        if self._state != "idle":
            raise Refusal(400, "the request ended before it was whole", code="bad_request")
        self._close_gracefully()

    def _read_head(self) -> Incoming | None:
        data, limit = self._unread.removeprefix(b"\r\n"), self._settings.max_header_bytes  # one empty line is forgiven
        end = data.find(b"\r\n\r\n", 0, limit) + 4
        if end < 4:
            if data not in (b"", b"\r"):
                self._check_unfinished(data, limit)
            return None
        self._unread = data[end:]
        head = parse_request(data[:end])
        self._incoming = incoming = Incoming(head, self._deadlines.now)
        self._state = "body"
        self._service.admit(head)
        if head.length > self._settings.max_body_bytes:
            raise self._too_large()
        self.deadline = incoming.begun + self._settings.body_timeout
        if head.expects_continue and head.has_body and not self._unread:
            self.transport.write(CONTINUE)
        return incoming

    def _check_unfinished(self, data: bytes, limit: int) -> None:
        """A head that is not whole yet: whether it can become one, and by when."""
        check_beginning(data)
        if len(data) >= limit:
            raise Refusal(431, f"the request's head is longer than {limit} bytes", code="head_too_large")
        if self._state == "idle":
            self._state = "head"
            self.deadline = self._deadlines.now + self._settings.header_timeout

    def _read_body(self, incoming: Incoming) -> bool:
        """Moves what is unread into the body; returns whether that is whole."""
        before = len(incoming.parts)
        data, self._unread = self._unread, b""
        end = incoming.framing.feed(data, 0, incoming.parts)
        self._hold(sum(map(len, incoming.parts[before:])))
        if end != MORE:
            self._unread = data[end:]
            return True
        if data:
            patience, rate = self._settings.body_timeout, self._settings.min_body_rate
            slowest = incoming.begun + patience + (self._held_bytes / rate if rate else NEVER)
            self.deadline = min(self._deadlines.now + patience, slowest)
        return False

    def _hold(self, size: int) -> None:
        self._held_bytes += size
        self._service.buffered += size
        if self._held_bytes > self._settings.max_body_bytes:
            raise self._too_large()
        if self._service.buffered > self._settings.max_buffered_bytes:
            raise Refusal(503, "too many request bodies are waiting; try again later", code="overloaded", retry_after=self._settings.retry_after)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request's body is longer than {self._settings.max_body_bytes} bytes", code="body_too_large")

    # Answering

    def _serve(self, incoming: Incoming) -> None:
        self._state = "busy"
        self.deadline = NEVER
        request = incoming.request()
        incoming.parts.clear()
        try:
            served = self._service.serve(self, request)
        except Refusal as refusal:
            self._service.refused(refusal)
            served = refused(refusal, incoming.head.request_id)
        if isinstance(served, Answer):
            self.answer(incoming.head, served)
        else:
            self._exchange = served
            served.dispatch()

    def answer(self, head: RequestHead, answer: Answer) -> None:
        keep_alive = head.keep_alive and not self.must_close
        connection = b"close" if not keep_alive else b"keep-alive" if head.http_1_0 else b""
        self.write(render(answer, head.request_id, connection, body=head.method != "HEAD"))
        self.finish(keep_alive=keep_alive)

    def _refuse(self, refusal: Refusal) -> None:
        """Answers what cannot be served. A body that is still to come is not read, so the connection ends with it."""
        self._service.refused(refusal)
        head = self._incoming.head if self._incoming is not None else None
        self._state = "busy"
        if head is not None and not head.has_body:
            self.answer(head, refused(refusal, head.request_id))
            return
        request_id = head.request_id if head is not None else new_request_id()
        self.write(render(refused(refusal, request_id), request_id, b"close", body=head is None or head.method != "HEAD"))
        self.finish(keep_alive=False)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def finish(self, *, keep_alive: bool) -> None:
        """The response is written; the next request's turn, on a later round of the loop."""
        self._exchange = self._incoming = None
        self.release_body()
        if self.transport.is_closing():
            return
        if not keep_alive or self._service.draining:
            self._close_gracefully()
            return
        self._state = "idle"
        if not self.paused:
            self._await_request()

    def _await_request(self) -> None:
        self.deadline = self._deadlines.now + self._settings.keep_alive_timeout
        if len(self._unread) <= self._settings.max_header_bytes:
            self.transport.resume_reading()
        if self._unread or self._half_closed:
            asyncio.get_running_loop().call_soon(self._advance)

    def release_body(self) -> None:
        self._service.buffered -= self._held_bytes
        self._held_bytes = 0

    # Closing

    def close_when_idle(self) -> None:
        if self._state == "idle" and not self._unread:
            self.transport.close()

    def _close_gracefully(self) -> None:
        """All that was written reaches the client, then the connection closes."""
        self._state = "linger"
        self._unread = b""
        self.deadline = self._deadlines.now + LINGER
        if self.paused:
            self.deadline = self._deadlines.now + self._settings.write_timeout
        if self._half_closed:
            self.transport.close()
        else:
            self.transport.resume_reading()
            self.transport.write_eof()

    def cut(self) -> None:
        self._exchange = None
        self.transport.abort()

    def abort(self) -> None:
        """Whatever is going on; an exchange learns of it as of any client that leaves."""
        self.transport.abort()

    # Limits

    def pause_writing(self) -> None:
        self.paused = True
        self._unsent = self.transport.get_write_buffer_size()
        self.deadline = self._deadlines.now + self._settings.write_timeout
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        self.paused = False
        self.deadline = self._deadlines.now + LINGER if self._state == "linger" else NEVER
        if self._exchange is not None:
            self._exchange.resume()
        elif self._state == "idle":
            self._await_request()

    def expired(self) -> None:
        if self.paused:
            unsent = self.transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent = unsent
                self.deadline = self._deadlines.now + self._settings.write_timeout
                return
        elif self._state in ("head", "body"):
            self._refuse(Refusal(408, f"the request's {self._state} did not come in time", code="timeout"))
            return
        self.transport.abort()
