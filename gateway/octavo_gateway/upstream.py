"""Connections to one replica: kept alive, reused, and read just far enough to know where a response ends.

What comes back is handed to the exchange as it came. Which replica, when to retry and what the client sees
are left to `exchange`.
"""

import asyncio
import contextlib
from typing import Protocol, cast

from octavo_gateway.deadlines import NEVER, Deadlines
from octavo_gateway.framing import MORE, BadFraming, Framing
from octavo_gateway.heads import BadResponse, ResponseHead, parse_response
from octavo_gateway.settings import GatewaySettings

_COPIED = 16_384
"""Bodies up to this many bytes are copied behind their head: one plain write costs less than a gathered one."""


class Receiver(Protocol):
    """Who asked. After `complete`, `lost` or `overdue` the connection is no longer the receiver's."""

    method: str
    unchunk: bool
    """Whether a chunked body is wanted without its chunks."""

    def respond(self, head: ResponseHead, framing: Framing) -> None:
        """The response begins; `relay` follows at once, be it with b""."""
        ...

    def relay(self, data: bytes) -> None: ...
    def complete(self) -> None: ...
    def lost(self, reason: str, stale: bool) -> None:
        """The connection died; `stale` when it had served before and said nothing to this request."""
        ...

    def overdue(self) -> None:
        """No response began in time."""
        ...


class UpstreamConnection(asyncio.Protocol):
    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        self._settings = upstream.settings
        self._deadlines = upstream.deadlines
        self._receiver: Receiver | None = None
        self._framing: Framing | None = None
        self._keep_alive = False
        self._served = 0
        self._paused = False
        self._buffer = b""
        self.deadline = NEVER
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set by connection_made, before anyone sees it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._deadlines.watch(self)
        self.deadline = self._deadlines.now + self._settings.upstream_keep_alive

    def send(self, receiver: Receiver, head: bytes, body: bytes) -> None:
        """Sends a request; its response goes to the receiver."""
        self._receiver, self._framing, self._buffer = receiver, None, b""
        self.deadline = self._deadlines.now + self._settings.first_byte_timeout
        if len(body) <= _COPIED:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))

    def drop(self) -> None:
        """Closes the connection at once; the replica sees the client hang up, the receiver hears no more."""
        self._receiver = None
        self.transport.abort()

    def pause(self) -> None:
        """The client is slow: nothing more is read, and the replica's clock stands still."""
        if self._receiver is not None and not self.transport.is_closing():
            self._paused = True
            self.transport.pause_reading()
            self.deadline = NEVER

    def resume(self) -> None:
        if self._paused and not self.transport.is_closing():
            self._paused = False
            self.transport.resume_reading()
            self.deadline = self._deadlines.now + self._settings.stream_timeout

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.transport.abort()  # a replica that speaks unasked cannot be trusted with the next request
            return
        self.deadline = self._deadlines.now + self._settings.stream_timeout
        first = self._framing is None
        try:
            if self._framing is None:
                data = self._read_head(receiver, self._buffer + data)
                if self._framing is None or self._receiver is not receiver:
                    return
            payload: list[bytes] | None = [] if receiver.unchunk else None
            end = self._framing.feed(data, 0, payload)
        except (BadResponse, BadFraming) as error:
            self._lose(f"sent no valid HTTP: {error}")
            self.transport.abort()
            return
        body = data if end == MORE else data[:end]
        if payload is not None:
            body = b"".join(payload)
        if body or first:
            receiver.relay(body)
        if end != MORE:
            self._complete(receiver, reusable=self._keep_alive and end == len(data))

    def _read_head(self, receiver: Receiver, data: bytes) -> bytes:
        """Reads heads until one is final; returns what follows it."""
        while (end := data.find(b"\r\n\r\n") + 4) > 3:
            head = parse_response(data[:end])
            data = data[end:]
            if head.status >= 200:
                self._framing = head.framing(receiver.method)
                self._keep_alive = head.keep_alive
                receiver.respond(head, self._framing)
                return data
        if len(data) > self._settings.max_header_bytes:
            raise BadResponse(f"its head is longer than {self._settings.max_header_bytes} bytes")
        self._buffer = data
        return b""

    def _complete(self, receiver: Receiver, *, reusable: bool) -> None:
        self._receiver = None
        self._served += 1
        if reusable:
            self.resume()
            self.deadline = self._deadlines.now + self._settings.upstream_keep_alive
            self._upstream.put_back(self)
        else:
            self.transport.abort()
        receiver.complete()

    def _lose(self, reason: str) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.lost(reason, stale=self._served > 0 and not self._buffer and self._framing is None)

    def eof_received(self) -> bool:
        if self._receiver is not None and self._framing is not None and self._framing.ends_with_connection:
            self._complete(self._receiver, reusable=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadlines.forget(self)
        self._upstream.forget(self)
        self._lose(f"closed the connection ({exc})" if exc else "closed the connection")

    def expired(self) -> None:
        self.deadline = NEVER
        receiver = self._receiver
        if receiver is not None and self._framing is None:
            self._receiver = None
            receiver.overdue()
        else:
            self._lose(f"sent nothing for {self._settings.stream_timeout:g} s")
        self.transport.abort()


def split_address(address: str) -> tuple[str, int]:
    """`host:port`, `[::1]:port` → host, port.

    Raises:
        ValueError: it is no such thing.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)


class Upstream:
    """The connections to one replica's API listener at `address` (`host:port`)."""

    def __init__(self, address: str, settings: GatewaySettings, deadlines: Deadlines) -> None:
        self._host, self._port = split_address(address)
        self.settings = settings
        self.deadlines = deadlines
        self._idle: list[UpstreamConnection] = []
        self._closed = False

    def take(self) -> UpstreamConnection | None:
        """The connection that was used last, if one is idle: it is the least likely to be stale."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def connect(self) -> UpstreamConnection:
        """
        Raises:
            OSError: also when it takes longer than `connect_timeout`.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.settings.connect_timeout):
            _, connection = await loop.create_connection(lambda: UpstreamConnection(self), self._host, self._port)
        return connection

    def put_back(self, connection: UpstreamConnection) -> None:
        if self._closed or len(self._idle) >= self.settings.max_idle_upstream:
            connection.drop()
        else:
            self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.drop()

    def close(self) -> None:
        """No connection is kept from now on; open exchanges go on."""
        self._closed = True
        self.drop_idle()
