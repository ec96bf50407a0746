"""The gateway on loopback against the same stub served directly: 1 KB requests, and chunks of server-sent events.

One process is both the clients and the stub, so that a stream's next chunk is sent when its last one has arrived:
no two chunks ever share a read, and each is paid for. The gateway is a process of its own, with its defaults.

python -m bench.gateway
"""

import asyncio
import json
import pathlib
import signal
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import psutil
import uvloop

from bench.record import Recorder

SECONDS = 5.0
WARM_UP = 1.0
CLIENTS = 64
CHUNKS_PER_STREAM = 500
PROMPT = "x" * 900

ANSWER_BODY = json.dumps({"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [{"index": 0, "text": "y" * 900}]}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER_BODY), ANSWER_BODY)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DELTA = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [{"index": 0, "delta": {"content": " token"}}]}
EVENT = b"data: %b\n\n" % json.dumps(DELTA).encode()
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
LAST_CHUNK = b"0\r\n\r\n"

Started = Callable[["StubConnection", int], None]


def request(client: int, stream: bool) -> bytes:
    body = json.dumps({"model": "m", "stream": stream, "client": client, "prompt": PROMPT}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class StubConnection(asyncio.Protocol):
    """A replica's connection that answers as fast as Python can, or begins a stream that its client drives."""

    def __init__(self, started: Started) -> None:
        self._started = started
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]  # uvloop's transport derives from none of asyncio's

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._unread.endswith(b'"}'):
            return
        body = json.loads(self._unread[self._unread.index(b"\r\n\r\n") :])
        self._unread = b""
        if body["stream"]:
            self.write(STREAM_HEAD)
            self._started(self, body["client"])
        else:
            self.write(ANSWER)


class LoadClient(asyncio.Protocol):
    """One client in a closed loop: its next request, or its stream's next chunk, follows the last one's arrival."""

    def __init__(self, number: int, stream: bool) -> None:
        self._request = request(number, stream)
        self._stream = stream
        self._stub: StubConnection | None = None
        self._unread = b""
        self._chunks = 0
        self.done = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._chunks = 0
        self._transport.write(self._request)  # type: ignore[attr-defined]  # as above

    def started(self, stub: StubConnection) -> None:
        self._stub = stub
        stub.write(CHUNK)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if self._stream:
            self._chunk_arrived()
        elif self._unread.endswith(ANSWER_BODY):
            self._unread = b""
            self.done += 1
            self._ask()

    def _chunk_arrived(self) -> None:
        if self._unread.endswith(LAST_CHUNK):
            self._unread = b""
            self._ask()
        elif self._unread.endswith(CHUNK) and self._stub is not None:
            self._unread = b""
            self.done += 1
            self._chunks += 1
            self._stub.write(CHUNK if self._chunks < CHUNKS_PER_STREAM else LAST_CHUNK)


async def load(stub_port: int, target_port: int, stream: bool, measured: psutil.Process | None) -> tuple[float, float]:
    """Returns things done a second, and CPU seconds that the measured process spent on each."""
    loop = asyncio.get_running_loop()
    clients = [LoadClient(number, stream) for number in range(CLIENTS)]
    server = await loop.create_server(lambda: StubConnection(lambda stub, client: clients[client].started(stub)), "127.0.0.1", stub_port)
    transports = [(await loop.create_connection(lambda client=client: client, "127.0.0.1", target_port))[0] for client in clients]
    await asyncio.sleep(WARM_UP)
    begun, before, spent = time.perf_counter(), sum(client.done for client in clients), cpu_seconds(measured)
    await asyncio.sleep(SECONDS)
    done = sum(client.done for client in clients) - before
    rate, cost = done / (time.perf_counter() - begun), (cpu_seconds(measured) - spent) / done
    for transport in transports:
        transport.abort()
    server.close()
    return rate, cost


def cpu_seconds(process: psutil.Process | None) -> float:
    times = process.cpu_times() if process is not None else None
    return times.user + times.system if times is not None else 0.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_gateway(folder: pathlib.Path, stub_port: int, port: int) -> psutil.Popen:
    endpoint = {"replica": "m-0", "api": f"127.0.0.1:{stub_port}", "internal": "127.0.0.1:1", "state": "ready"}
    catalogue = folder / "catalogue.json"
    catalogue.write_text(json.dumps({"models": [{"name": "m", "endpoints": [endpoint]}]}))
    octavo = pathlib.Path(sys.executable).parent / "octavo"
    process = psutil.Popen([octavo, "gateway", "--catalogue", str(catalogue), "--port", str(port), "--internal-port", "0", "--log-level", "error"])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
        else:
            return process
    process.kill()
    raise SystemExit("octavo gateway did not become ready")


def main() -> None:
    recorder = Recorder("gateway", "uvloop", "httptools", "msgspec")
    stub_port, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        process = start_gateway(pathlib.Path(folder), stub_port, port)
        try:
            for workload in ("requests", "chunks"):
                stream = workload == "chunks"
                direct, _ = uvloop.run(load(stub_port, stub_port, stream, None))
                through, cost = uvloop.run(load(stub_port, port, stream, process))
                recorder.row(
                    workload=workload,
                    clients=CLIENTS,
                    bytes=len(CHUNK) if stream else len(request(0, False)),
                    direct_per_s=round(direct),
                    gateway_per_s=round(through),
                    gateway_cpu_us=round(cost * 1e6, 1),
                )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    recorder.save()


if __name__ == "__main__":
    main()
