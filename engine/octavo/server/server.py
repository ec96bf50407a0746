"""A served model on its two listeners: ready, drained, or failed with its last words.

The process around it, its settings and signals' registration included, is left to `serve`.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import msgspec

from octavo.async_llm import AsyncLLMEngine
from octavo.server.api import api_app
from octavo.server.flags import Command
from octavo.server.internal import internal_app
from octavo.server.keys import Keys
from octavo.server.listener import Listener
from octavo.server.service import Service
from octavo_api.errors import ModelUnavailable
from octavo_api.replica import Progress

FAILED_SECONDS = 1.0
"""How long a failed replica goes on saying so, for whoever asks /progress or waits for a last event."""
TERMINATION_LOG = Path("/dev/termination-log")
"""Where a kubelet looks for a container's last words."""

_log = logging.getLogger("octavo.server")


class Server:
    """One model on two listeners."""

    def __init__(self, command: Command, engine: AsyncLLMEngine, keys: Keys) -> None:
        """
        Raises:
            InvalidSetting: a listener cannot be opened.
        """
        settings = command.server
        self._command = command
        self._engine = engine
        self._service = Service(engine, settings, settings.served_model_name or (command.model,))
        self._listeners = (
            Listener(api_app(self._service, keys), settings.host, settings.port, "--port"),
            Listener(internal_app(self._service), settings.internal_host, settings.internal_port, "--internal-port"),
        )
        self._signalled = asyncio.Event()

    async def run(self) -> int:
        """Serves until a signal or the engine's end; returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        serving = [asyncio.create_task(listener.run_until_stopped()) for listener in self._listeners]
        _log.info("listening on http://%s, internally on http://%s", *(listener.address for listener in self._listeners))
        announcing = asyncio.create_task(self._announce())
        signalled = asyncio.create_task(self._signalled.wait())
        await asyncio.wait((signalled, self._engine.failed), return_when=asyncio.FIRST_COMPLETED)
        if not self._engine.failed.done():
            await self._drain()
        failed = self._engine.progress if self._engine.failed.done() else None
        if failed is not None:
            _tell_kubelet(failed)
            await asyncio.sleep(FAILED_SECONDS)
        for task in (announcing, signalled):
            task.cancel()
        await self._engine.shutdown()
        for listener in self._listeners:
            listener.stop()
        await asyncio.wait(serving)
        return _last_words(failed) if failed is not None else 0

    async def _announce(self) -> None:
        try:
            await self._engine.wait_ready()
        except ModelUnavailable:
            return
        gc.collect()
        gc.freeze()  # what was loaded stays: no collection looks through it in the middle of a stream
        _log.info("ready: %s, %d tokens of context", ", ".join(self._service.names), self._engine.max_model_len)

    def _on_signal(self, number: int) -> None:
        if self._signalled.is_set():
            _log.warning("ended by a second signal, with %d requests open", self._service.num_open)
            os._exit(128 + number)
        self._signalled.set()

    async def _drain(self) -> None:
        """Refuses new requests, waits for the open ones."""
        service = self._service
        service.draining = True
        patience = service.settings.drain_timeout
        _log.info("draining: %d requests are open and get %g s; a second signal ends it at once", service.num_open, patience)
        empty = asyncio.create_task(service.empty())
        await asyncio.wait((empty, self._engine.failed), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not empty.done():
            empty.cancel()
            _log.warning("%d requests were still open after %g s of drain and are ended", service.num_open, patience)


def _last_words(failed: Progress) -> int:
    """The log's last line says why the engine failed; returns the exit status."""
    sys.stderr.write(f"octavo serve: {failed.reason}: {' '.join(failed.message.split())}\n")
    return 2 if failed.reason == "InvalidSetting" else 1


def _tell_kubelet(progress: Progress) -> None:
    try:
        if TERMINATION_LOG.is_file():
            TERMINATION_LOG.write_bytes(msgspec.json.encode(progress))
    except OSError as error:
        _log.debug("%s: %s", TERMINATION_LOG, error)
