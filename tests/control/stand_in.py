"""In the place of `octavo serve` alone: speaks the contract of a replica (`docs/replica.md`) without a model.

Its model is a JSON file of the faults that a test wants: `load` seconds of loading, `fail` the last words of a start that
fails, `words` and `pause` of an answer, `die_after` words, `ignore_term`. It ends with the lines that such a replica logs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from octavo_api.command import Verb

BYTES = 1_000_000


class StandIn:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.model = json.loads(Path(arguments.model).read_text())
        self.started = time.monotonic()
        self.running = 0
        self.draining, self.idle = asyncio.Event(), asyncio.Event()
        self.idle.set()

    @property
    def share(self) -> float:
        return min(1.0, (time.monotonic() - self.started) / (self.model.get("load", 0.0) or 1e-9))

    def internal(self, path: str) -> tuple[int, dict]:
        ready = self.share == 1.0 and not self.draining.is_set()
        stage = "draining" if self.draining.is_set() else "ready" if ready else "loading"
        if path == "/health":
            return (200 if ready else 503), {"status": {"ready": "ok"}.get(stage, stage)}
        if path == "/progress":
            return 200, {"stage": stage, "done": int(BYTES * self.share), "total": BYTES}
        if path == "/load":
            return 200, {"running": self.running, "waiting": 0, "draining": self.draining.is_set()}
        return (200, {}) if path == "/live" else (404, {})

    async def answer(self, writer: asyncio.StreamWriter, body: dict) -> None:
        self.running += 1
        self.idle.clear()
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
            for count, word in enumerate(self.model.get("words", "one two three").split()):
                if count == self.model.get("die_after"):
                    print("the engine process died: out of luck", flush=True)
                    os._exit(1)
                delta = {"content": f"{word} "}
                writer.write(f"data: {json.dumps({'model': body['model'], 'choices': [{'index': 0, 'delta': delta}]})}\n\n".encode())
                await writer.drain()
                await asyncio.sleep(self.model.get("pause", 0.0))
            writer.write(b"data: [DONE]\n\n")
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            line, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            method, path, _ = line.split()
            length = next((int(field.partition(":")[2]) for field in fields if field.lower().startswith("content-length:")), 0)
            body = json.loads(await reader.readexactly(length)) if length else {}
            if method == "POST" and path.startswith("/v1/") and not self.draining.is_set():
                await self.answer(writer, body)
            else:
                status, said = self.internal(path)
                text = json.dumps(said).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text
                )
            await writer.drain()
        writer.close()

    async def run(self) -> int:
        arguments = self.arguments
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not self.model.get("ignore_term"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.draining.set)
        if "fail" in self.model:
            await asyncio.sleep(self.model.get("load", 0.0))
            print(self.model["fail"], file=sys.stderr)
            return 1
        await asyncio.start_server(self.connected, arguments.internal_host, arguments.internal_port)
        await asyncio.start_server(self.connected, arguments.host, arguments.port)
        await self.draining.wait()
        await self.idle.wait()
        return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model")
    parser.add_argument("--served-model-name", nargs="+")
    for name in ("host", "internal-host"):
        parser.add_argument(f"--{name}")
    for name in ("port", "internal-port"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("drain-timeout", "cpu-threads", "kv-cache-memory-bytes", "max-num-seqs"):
        parser.add_argument(f"--{name}", type=float)


async def _start(arguments: argparse.Namespace) -> int:
    return await StandIn(arguments).run()


serve = Verb(name="serve", help="a stand-in", extra="dev", requires=(), add_arguments=_arguments, run=lambda arguments: asyncio.run(_start(arguments)))
