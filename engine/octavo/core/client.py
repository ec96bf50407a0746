"""The API process's side of the engine process: starts it, sends to it, hands on what it says, notices its end.

Works inside an asyncio loop by callbacks, without a task or a future a message. What the messages mean is left to
`octavo.async_llm`.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from octavo.core.engine_process import REQUESTS, UPDATES
from octavo.core.messages import EngineFailed, EngineReady, FromEngine, Shutdown, ToEngine
from octavo_api.settings import EngineSettings

UNIPROC = "octavo.executor.uniproc:UniprocExecutor"
SHUTDOWN_SECONDS = 5.0

OnMessage = Callable[[FromEngine], None]


class EngineClient:
    """One engine process. Use it from the loop that it was made in.

    `on_message` gets everything the engine says, an `EngineFailed` last, once, when the process has ended without
    being asked to: with its own words where it had any, else with its exit status.
    """

    def __init__(self, model: Path, settings: EngineSettings, on_message: OnMessage, executor: str = UNIPROC) -> None:
        """Starts the process; `executor` is the `module:Class` that it runs its steps on."""
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._folder = Path(tempfile.mkdtemp(prefix="octavo-"))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._requests, self._updates = self._context.socket(zmq.PUSH), self._context.socket(zmq.PULL)
        for end, name in ((self._requests, REQUESTS), (self._updates, UPDATES)):
            end.set_hwm(0)
            end.setsockopt(zmq.LINGER, 0)
            end.bind(f"ipc://{self._folder / name}")
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode: Callable[[bytes], FromEngine] = msgspec.msgpack.Decoder(FromEngine).decode
        self._lifeline, theirs = socket.socketpair()
        self._lifeline.setblocking(False)
        self._last_words = b""
        self._ready = self._closing = False
        with theirs:
            self.process = self._spawn(model, settings, executor, theirs.fileno())
        self._loop.add_reader(self._updates.fileno(), self._receive)
        self._loop.add_reader(self._lifeline.fileno(), self._listen)
        self._receive()

    def send(self, message: ToEngine) -> None:
        """Sends without waiting. Only after `EngineReady`; what is sent to a dead engine is lost."""
        if not self._closing:
            try:
                self._requests.send(self._encode(message), zmq.NOBLOCK)
            except zmq.Again:
                return

    async def shutdown(self) -> None:
        """Ends the process: by asking, then, after SHUTDOWN_SECONDS or while it is still loading, by closing the lifeline."""
        if self._closing:
            return
        if self._ready:
            self.send(Shutdown())
        else:
            self._lifeline.shutdown(socket.SHUT_RDWR)
        self._closing = True
        self._loop.remove_reader(self._updates.fileno())
        self._loop.remove_reader(self._lifeline.fileno())
        if not await self._ended(SHUTDOWN_SECONDS):
            self._lifeline.close()
            if not await self._ended(SHUTDOWN_SECONDS):
                self.process.kill()
                await self._ended(SHUTDOWN_SECONDS)
        self._close()

    def _spawn(self, model: Path, settings: EngineSettings, executor: str, lifeline: int) -> "subprocess.Popen[bytes]":
        words = {
            "--folder": self._folder,
            "--lifeline": lifeline,
            "--parent": os.getpid(),
            "--executor": executor,
            "--model": model,
            "--settings": msgspec.json.encode(settings).decode(),
            "--log-level": logging.getLogger("octavo").getEffectiveLevel(),
        }
        command = [sys.executable, "-m", "octavo.core.engine_process", *(str(word) for pair in words.items() for word in pair)]
        # In a process group of its own a Ctrl-C in the terminal reaches the API process alone, which drains.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(lifeline,), process_group=0)

    def _receive(self) -> None:
        """Hands on all that has come: the socket's descriptor wakes the loop only once for it."""
        while not self._closing:
            try:
                message = self._decode(self._updates.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            self._ready = self._ready or isinstance(message, EngineReady)
            self._on_message(message)

    def _listen(self) -> None:
        try:
            words = self._lifeline.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            words = b""
        if words:
            self._last_words += words
            return
        self._loop.remove_reader(self._lifeline.fileno())
        self._receive()
        failed = msgspec.msgpack.decode(self._last_words, type=EngineFailed) if self._last_words else self._epitaph()
        self._on_message(failed)

    def _epitaph(self) -> EngineFailed:
        """The lifeline closes while the kernel takes the process down, so its status is there in a moment."""
        try:
            status = self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return EngineFailed(reason="EngineCrashed", message="the engine process closed its connection")
        if status < 0:
            name = signal.Signals(-status).name
            hint = "; often the kernel's answer to too little memory" if name == "SIGKILL" else ""
            return EngineFailed(reason="EngineKilled", message=f"the engine process was ended by {name}{hint}")
        return EngineFailed(reason="EngineCrashed", message=f"the engine process ended with status {status}")

    async def _ended(self, seconds: float) -> bool:
        deadline = self._loop.time() + seconds
        while self.process.poll() is None:
            if self._loop.time() > deadline:
                return False
            await asyncio.sleep(0.01)
        return True

    def _close(self) -> None:
        self._lifeline.close()
        self._context.destroy(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)
