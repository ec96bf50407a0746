"""What a listener offers, and the connections that are on it. HTTP itself is left to `protocol`."""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from typing import Protocol

from octavo_gateway.answers import Answer, Refusal
from octavo_gateway.deadlines import Deadlines
from octavo_gateway.exchange import Client, Exchange
from octavo_gateway.heads import RequestHead
from octavo_gateway.request import Request
from octavo_gateway.settings import GatewaySettings

logger = logging.getLogger(__name__)


class Connection(Protocol):
    def close_when_idle(self) -> None: ...
    def abort(self) -> None: ...


class Service(ABC):
    """One listener's side of things. `buffered` are the bytes of request bodies that it holds."""

    def __init__(self, settings: GatewaySettings, deadlines: Deadlines) -> None:
        self.settings = settings
        self.deadlines = deadlines
        self.connections: set[Connection] = set()
        self.buffered = 0
        self.draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    @abstractmethod
    def admit(self, head: RequestHead) -> None:
        """Looks at a head before its body is read.

        Raises:
            Refusal: nothing of the request is wanted.
        """

    @abstractmethod
    def serve(self, client: Client, request: Request) -> Answer | Exchange:
        """Answers a whole request, or begins an exchange that will; the caller dispatches it.

        Raises:
            Refusal: to be answered.
        """

    def refused(self, refusal: Refusal) -> None:
        """Told of every refusal."""
        logger.debug("refused with %d: %s", refusal.status, refusal.message)

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._empty.clear()

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    @property
    def full(self) -> bool:
        return len(self.connections) > self.settings.max_connections

    async def drain(self, patience: float) -> int:
        """Closes idle connections, waits up to `patience` seconds for the others, cuts off the rest; returns how many."""
        self.draining = True
        for connection in list(self.connections):
            connection.close_when_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._empty.wait()
        left = list(self.connections)
        for connection in left:
            connection.abort()
        return len(left)


def check_method(head: RequestHead, allowed: str) -> None:
    """A GET also answers HEAD; OPTIONS tells what is allowed.

    Raises:
        Refusal: 405 with Allow.
    """
    methods = ("GET", "HEAD", "OPTIONS") if allowed == "GET" else (allowed, "OPTIONS")
    if head.method not in methods:
        refusal = Refusal(405, f"{head.path} takes {', '.join(methods)}, not {head.method}", code="method_not_allowed")
        refusal.headers = (allow(allowed),)
        raise refusal


def allow(allowed: str) -> tuple[bytes, bytes]:
    return b"allow", b"GET, HEAD, OPTIONS" if allowed == "GET" else f"{allowed}, OPTIONS".encode()
