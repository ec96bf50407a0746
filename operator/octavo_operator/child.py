"""One verb of `octavo` as a child process of this one: its log file, its last words, its end."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_TAIL = 8192


class Child:
    """A running or ended process. Made by `start`; `ended` is called once when it has exited."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, ended: Callable[[], None]) -> None:
        self.log = log
        self._process = process
        self._ended = ended
        self._killer: asyncio.TimerHandle | None = None
        self._waiter = asyncio.create_task(self._wait(), name=f"wait for {log.stem}")

    @classmethod
    async def start(cls, words: Sequence[str], log: Path, ended: Callable[[], None], folder: Path | None = None) -> "Child":
        """Runs `octavo WORDS…` in `folder`, both outputs in `log`. It is in no terminal's group: Ctrl-C is for the parent."""
        command = [sys.executable, "-m", "octavo_operator.dependent", str(os.getpid()), *words]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        return cls(process, log, ended)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 + n when signal n ended it, as shells say it."""
        code = self._process.returncode
        return code if code is None or code >= 0 else 128 - code

    def tail(self) -> str:
        """The end of its output."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read().decode(errors="replace")

    def stop(self, grace: float) -> None:
        """SIGTERM now, SIGKILL after `grace` seconds."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)
            if self._killer:
                self._killer.cancel()
            self._killer = asyncio.get_running_loop().call_later(grace, self.kill)

    def kill(self) -> None:
        if self.exit_code is None:
            self._process.kill()

    async def wait(self) -> None:
        await asyncio.shield(self._waiter)

    async def _wait(self) -> None:
        await self._process.wait()
        if self._killer:
            self._killer.cancel()
        self._ended()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
