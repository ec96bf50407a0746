"""`octavo up`: resources, gateway and replicas on this machine, until Ctrl-C or, without a terminal, until the answer.

The same reconciler and plan as on a cluster, over `LocalRuntime`. What it starts ends with it.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from msgspec import Struct
from rich.console import Console

from octavo_api.errors import InvalidResource, InvalidSetting
from octavo_api.resource import LLMDeploymentStatus, seconds
from octavo_operator.ask import NoAnswer, answer
from octavo_operator.child import Child
from octavo_operator.display import Display
from octavo_operator.local import LocalRuntime
from octavo_operator.manifests import Manifest, load
from octavo_operator.reconciler import Reconciler
from octavo_operator.types import Key, Observed

LOOK = 0.25
"""Seconds between looks at replicas that load or drain, and at the files."""
MARGIN = 5.0
"""Seconds that the gateway gets beyond its drain timeout to close up."""
INTERRUPTED = 130


class UpOptions(Struct, frozen=True, kw_only=True):
    """What `octavo up` was told. `stay` keeps it running after the answer, or once every model is ready, until a signal."""

    files: tuple[Path, ...]
    ask: str | None
    host: str
    port: int
    stay: bool


async def up(options: UpOptions, say: Callable[[str], None]) -> int:
    """Runs it all; `say` gets the answer piece by piece. Returns the exit status: 0 answered, or stopped by a signal
    after that; 1 when a model cannot be served; 130 when a signal came before the answer.

    Raises:
        InvalidResource, InvalidSetting: a file or a flag cannot work; nothing was started.
    """
    manifests = load(options.files)
    port = _free_port(options.host, options.port)
    folder = Path(tempfile.mkdtemp(prefix="octavo-up-"))
    display = Display(Console(stderr=True))
    try:
        status = await _Session(options, f"{options.host}:{port}", folder, display).run(manifests, say)
    finally:
        display.close()
    if status == 1:
        display.line(f"logs: {folder}")
    else:
        shutil.rmtree(folder)
    return status


class _Session:
    def __init__(self, options: UpOptions, address: str, folder: Path, display: Display) -> None:
        self._options = options
        self._address = address
        self._folder = folder
        self._display = display
        self._url = f"http://{address}/v1"
        self._stop, self._hurry, self._changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._ready: set[Key] = set()
        self._failed: dict[Key, Path] = {}
        self._unannounced: list[Key] = []
        self._announcing = options.ask is None
        self._gateway: Child | None = None
        self._gateway_died = False
        self._runtime = LocalRuntime(folder, self._url, self._wake, self._published)
        self._reconciler = Reconciler(self._runtime, time.time, busy_resync=LOOK)

    async def run(self, manifests: list[Manifest], say: Callable[[str], None]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled)
        patience = max(seconds(manifest.resource.spec.rollout.drain_timeout) for manifest in manifests)
        self._gateway = await self._start_gateway(patience)
        try:
            for manifest in manifests:
                self._runtime.put(manifest)
            async with _background(self._follow_files()), _background(self._work(manifests[0], say)) as work, _background(self._stop.wait()) as stopped:
                await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
                return int(work.result()) if work.done() else self._interrupted()
        finally:
            await self._shut_down(patience)

    async def _work(self, first: Manifest, say: Callable[[str], None]) -> int:
        status = await (self._answer(first, self._options.ask, say) if self._options.ask is not None else self._all_ready())
        if status == 0:
            self._announcing = True
            self._announce()
            if self._options.stay:
                self._display.line("Ctrl-C stops it")
                await self._stop.wait()
                return self._interrupted(served=True)
        return status

    async def _answer(self, manifest: Manifest, question: str, say: Callable[[str], None]) -> int:
        while manifest.key not in self._ready:
            if manifest.key in self._failed:
                return self._explain(manifest.key)
            await self._change()
        with self._display.quiet():
            try:
                async for piece in answer(self._url, manifest.resource.served_name, question):
                    say(piece)
            except NoAnswer as error:
                self._display.line(f"no answer: {error}")
                return 1
            finally:
                say("\n")
        return 0

    async def _all_ready(self) -> int:
        """Until every model is ready or has failed; those that are ready are worth staying for."""
        while set(self._runtime.keys) - self._ready - set(self._failed):
            await self._change()
        for key in self._failed:
            self._explain(key)
        return 1 if self._failed and not (self._options.stay and self._ready) else 0

    async def _change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _explain(self, key: Key) -> int:
        """The last line of a failed replica's log; its reason has been shown."""
        log = self._failed[key]
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        self._display.line(f"{key.name}: last line of {log.name}: {lines[-1] if lines else '(it is empty)'}")
        return 1

    def _interrupted(self, served: bool = False) -> int:
        if self._gateway_died:
            return 1
        return 0 if served or self._options.ask is None else INTERRUPTED

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        else:
            self._display.line("draining; once more to stop at once")
            self._stop.set()

    async def _start_gateway(self, patience: float) -> Child:
        host, _, port = self._address.rpartition(":")
        words = ["gateway", f"--catalogue={self._runtime.catalogue}", f"--host={host}", f"--port={port}", "--internal-port=0", f"--drain-timeout={patience:g}"]
        return await Child.start(words, self._folder / "gateway.log", self._gateway_ended)

    def _gateway_ended(self) -> None:
        if self._stop.is_set() or self._gateway is None:
            return
        last = self._gateway.tail().strip().splitlines()[-1:]
        self._display.line(f"the gateway ended with status {self._gateway.exit_code}: {''.join(last)}")
        self._gateway_died = True
        self._stop.set()

    def _wake(self, key: Key) -> None:
        self._reconciler.wake(key)

    def _published(self, key: Key, status: LLMDeploymentStatus, observed: Observed) -> None:
        self._display.show(key, status, observed)
        ready = any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions)
        stopped = next((replica for replica in observed.replicas if replica.phase == "stopped" and not (replica.draining or replica.terminating)), None)
        if ready and key not in self._ready:
            self._ready.add(key)
            self._failed.pop(key, None)
            self._unannounced.append(key)
            self._changed.set()
            if self._announcing:
                self._announce()
        elif stopped and key not in self._ready:
            self._failed[key] = self._runtime.log_of(stopped.name)
            self._changed.set()

    def _announce(self) -> None:
        """Where the models answer that are ready now."""
        for key in self._unannounced:
            body = {"model": self._runtime.served_name(key), "messages": [{"role": "user", "content": "Hello!"}], "stream": True}
            self._display.line(f"{key.name} answers at {self._url}, for example:")
            self._display.line(f"  curl -N {self._url}/chat/completions -H 'Content-Type: application/json' -d '{json.dumps(body)}'")
        self._unannounced.clear()

    async def _follow_files(self) -> None:
        """An edited file is a new spec; one that cannot be read changes nothing but is said."""
        before = self._stamps()
        while True:
            await asyncio.sleep(LOOK)
            if (now := self._stamps()) == before:
                continue
            before = now
            try:
                manifests = {manifest.key: manifest for manifest in load(self._options.files)}
            except InvalidResource as error:
                self._display.line(f"not applied: {error}")
                continue
            for manifest in manifests.values():
                self._runtime.put(manifest)
            for key in set(self._runtime.keys) - set(manifests):
                self._runtime.retire(key)

    def _stamps(self) -> list[int]:
        return [file.stat().st_mtime_ns if file.exists() else 0 for file in self._options.files]

    async def _shut_down(self, patience: float) -> None:
        """The gateway first: it takes nothing new and lets open answers end while the replicas are still there."""
        self._stop.set()
        if self._gateway:
            self._gateway.stop(patience + MARGIN)
            async with _background(self._gateway.wait()) as ended, _background(self._hurry.wait()) as hurried:
                await asyncio.wait((ended, hurried), return_when=asyncio.FIRST_COMPLETED)
            self._gateway.kill()
            await self._gateway.wait()
        await self._reconciler.close()
        await self._runtime.close(self._hurry)


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, Any]) -> AsyncIterator["asyncio.Task[Any]"]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _free_port(host: str, port: int) -> int:
    """`port` if it can be listened on, any free one for 0."""
    try:
        with socket.create_server((host, port)) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise InvalidSetting(f"--port {port}: {host} cannot listen there ({error.strerror}); choose another, or 0 for any free one") from error
