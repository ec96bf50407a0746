"""The cluster's processes, found by what they run: no pid file can be lost or name a stranger.

A process belongs to the cluster when its program is one of ours and an argument names the cluster's home.
Deciding what runs, and with which arguments, is left to `cluster.py`.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

SHIM = "containerd-shim-runc-v2"


def running(home: Path, names: tuple[str, ...]) -> dict[int, str]:
    """Programs of the cluster at `home` that run now, by process id."""
    found = {}
    for pid, words in _command_lines():
        name = os.path.basename(words[0])
        if name in names and any(f"{home}/" in word for word in words[1:]):
            found[pid] = name
    return found


def start(home: Path, name: str, command: list[str]) -> None:
    """Starts a program that outlives us, its output in `run/NAME.log`."""
    log = home / "run" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True)


def kill(home: Path, names: tuple[str, ...], patience: float = 2.0) -> None:
    """Asks the programs to stop, ends those that have not after `patience` seconds."""
    for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + wait
        for pid in running(home, names):
            _signal(pid, number)
        while running(home, names) and time.monotonic() < deadline:
            time.sleep(0.05)


def kill_pods(home: Path) -> None:
    """Ends every container: the shims that watch them and everything below these."""
    shims = set(running(home, (SHIM,)))
    doomed = shims | _descendants(shims)
    for pid in doomed:
        _signal(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in doomed) and time.monotonic() < deadline:
        time.sleep(0.05)


def _descendants(roots: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    pending = list(roots)
    while pending:
        below = children.get(pending.pop(), [])
        found.update(below)
        pending.extend(below)
    return found


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0] and int(entry.name) != os.getpid():
                    yield int(entry.name), words


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
