"""A gateway in this process, on real sockets, and a small HTTP server in the place of a replica whose faults a test chooses."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from octavo_api.catalogue import Catalogue, Endpoint, Model
from octavo_gateway.keys import Keys
from octavo_gateway.serve import Gateway
from octavo_gateway.settings import GatewaySettings


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class StubRequest:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Handler = Callable[[StubRequest, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]
"""Answers one request; returns whether the connection stays."""


@dataclass
class Stub:
    """The network peer that a replica is. `left` counts connections that the gateway closed in mid-answer."""

    handler: Handler
    requests: list[StubRequest] = field(default_factory=list)
    connections: int = 0
    left: int = 0
    address: str = ""
    server: asyncio.Server | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, port: int = 0) -> None:
        self.server = await asyncio.start_server(self._connected, "127.0.0.1", port, limit=1 << 26)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        self.connections += 1
        number = self.connections
        try:
            while await self._one(reader, writer, number):
                pass
        except asyncio.IncompleteReadError:
            pass
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
        finally:
            self.tasks.discard(task)
            with contextlib.suppress(ConnectionError):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.rstrip().split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = StubRequest(method, target, headers, body, number)
        self.requests.append(request)
        return await self.handler(request, reader, writer)


class Answers:
    """Handlers for stubs."""

    @staticmethod
    def whole(body: bytes = b'{"object":"text_completion"}', status: str = "200 OK", headers: str = "") -> Handler:
        async def handler(request: StubRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            writer.write(f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body)
            return True

        return handler

    @staticmethod
    def raw(*parts: bytes, pause: float = 0.0, stay: bool = False) -> Handler:
        async def handler(request: StubRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            return stay

        return handler

    @staticmethod
    def stream(count: int, pause: float = 0.0, end: bool = True) -> Handler:
        """A completion streamed in `count` events; without `end` the connection dies after the last of them."""

        async def handler(request: StubRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for index in range(count):
                chunk = {
                    "id": "c",
                    "object": "text_completion",
                    "created": 1,
                    "model": "m",
                    "choices": [{"index": 0, "text": f"{index} ", "finish_reason": None}],
                }
                writer.write(Answers.chunk(f"data: {json.dumps(chunk)}\n\n".encode()))
                await writer.drain()
                await asyncio.sleep(pause)
                if reader.at_eof():
                    raise ConnectionResetError("the client left")
            if end:
                writer.write(Answers.chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            return end

        return handler

    @staticmethod
    def silent() -> Handler:
        """Takes the request and says nothing until the gateway goes."""

        async def handler(request: StubRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await reader.read(1)
            raise ConnectionResetError("the client left")

        return handler

    @staticmethod
    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass
class Running:
    """A gateway, and how to talk to it."""

    gateway: Gateway
    public: str
    internal: str

    @property
    def port(self) -> int:
        return int(self.public.rpartition(":")[2])

    @property
    def url(self) -> str:
        return f"http://{self.public}"

    def serve(self, *replicas: Stub | str, model: str = "m", state: str = "ready", **fields: Any) -> None:
        """Makes the catalogue one model with these replicas."""
        self.gateway.fleet.apply(Catalogue(models=(self.model(*replicas, model=model, state=state, **fields),)))

    @staticmethod
    def model(*replicas: Stub | str, model: str = "m", state: Any = "ready", **fields: Any) -> Model:
        addresses = [replica if isinstance(replica, str) else replica.address for replica in replicas]
        endpoints = tuple(Endpoint(replica=f"{model}-{index}", api=address, internal="127.0.0.1:1", state=state) for index, address in enumerate(addresses))
        return Model(name=model, endpoints=endpoints, **fields)

    async def raw(self, *parts: bytes, pause: float = 0.0, half_close: bool = False, patience: float = 5.0) -> bytes:
        """What comes back on one connection until the gateway closes it, or for `patience` seconds."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for part in parts:
                writer.write(part)
                await asyncio.sleep(pause)
            if half_close:
                writer.write_eof()
            received = b""
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while data := await reader.read(65536):
                        received += data
            return received
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
def answers() -> type[Answers]:
    return Answers


@pytest.fixture
async def stub() -> AsyncIterator[Callable[..., Awaitable[Stub]]]:
    started: list[Stub] = []

    async def start(handler: Handler | None = None, port: int = 0) -> Stub:
        made = Stub(handler or Answers.whole())
        await made.start(port)
        started.append(made)
        return made

    yield start
    for made in started:
        await made.stop()


@pytest.fixture
async def gateway() -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    started: list[Gateway] = []

    async def start(*, keys: list[str] | None = None, **settings: Any) -> Running:
        chosen = GatewaySettings(**({"port": 0, "internal_port": 0, "drain_timeout": 0.0, "ejection_time": 0.2} | settings))
        made = Gateway(chosen, Keys(keys) if keys is not None else None)
        started.append(made)
        return Running(made, *await made.listen())

    yield start
    for made in started:
        await made.drain()


@pytest.fixture
def dead_address() -> str:
    """Where nothing listens."""
    return "127.0.0.1:1"


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    async def wait(condition: Callable[[], bool], patience: float = 5.0) -> None:
        async with asyncio.timeout(patience):
            while not condition():  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def post() -> Callable[..., bytes]:
    """A completion request as bytes."""

    def make(model: str = "m", path: str = "/v1/completions", headers: str = "", **fields: Any) -> bytes:
        body = json.dumps({"model": model, "prompt": "hello"} | fields).encode()
        return f"POST {path} HTTP/1.1\r\nHost: h\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body

    return make
