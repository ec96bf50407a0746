"""Where fetched models are kept: one folder a model, which is whole or is not there.

A folder is filled under another name, by one process at a time, and renamed when a record of its files lies in it. A
process that finds another one at work waits and uses what that one made; what a killed one left is gone on with.
What is fetched is left to `octavo.loader.pypi` and `octavo.loader.hub`.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from octavo_api.errors import ModelUnavailable

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all; 0 in all while that is unknown."""

RECORD = "source.json"
_EXPECTED = ".expected"
_POLL_SECONDS = 0.2


class StoredFile(Struct, frozen=True):
    name: str
    size: int
    sha256: str


class Record(Struct, frozen=True, omit_defaults=True):
    """What lies in a model's folder. `model` is the file to load, "" for the folder; `archive` is what brought it."""

    source: str
    files: tuple[StoredFile, ...]
    model: str = ""
    archive: StoredFile | None = None


def cache_root() -> Path:
    """`OCTAVO_CACHE`, or `~/.cache/octavo`."""
    return Path(os.environ.get("OCTAVO_CACHE") or "~/.cache/octavo").expanduser()


def stored(folder: Path) -> Path | None:
    """The model in a finished folder, when its files are there as recorded."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
        whole = all((folder / file.name).stat().st_size == file.size for file in record.files)
    except (OSError, msgspec.MsgspecError):
        return None
    return folder / record.model if whole else None


class Filling:
    """A folder on its way: `path` is where files go, under the names they are to keep."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def expect(self, num_bytes: int) -> None:
        """Tells processes that wait how much is coming, and refuses when the disk cannot hold it."""
        (self.path / _EXPECTED).write_text(str(num_bytes))
        check_space(self.path, num_bytes - _num_bytes(self.path))

    def so_far(self) -> tuple[int, int]:
        try:
            return _num_bytes(self.path), int((self.path / _EXPECTED).read_text())
        except (OSError, ValueError):
            return 0, 0


def fetch(folder: Path, fill: Callable[[Filling], Record], progress: Progress) -> Path:
    """The model in `folder`; `fill` gets it when it is not there yet.

    Raises:
        ModelUnavailable: `DiskFull`, `CacheUnwritable`, or what `fill` raises.
    """
    found = stored(folder)
    if found is not None:
        return found
    filling = Filling(folder.with_name(folder.name + ".part"))
    seen = [(0, 0)]

    def watch() -> None:
        now = filling.so_far()
        if now != seen[-1]:  # silence tells a heartbeat that the other process is stuck
            seen.append(now)
            progress(*now)

    with _cache_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(folder.name + ".lock"), watch):
            if stored(folder) is None:
                filling.path.mkdir(exist_ok=True)
                _finish(filling.path, folder, fill(filling))
    found = stored(folder)
    if found is None:
        raise ModelUnavailable("ModelInvalid", f"{folder}: files went missing while they were being fetched; fetch the model again")
    return found


def check_space(folder: Path, num_bytes: int) -> None:
    """Raises ModelUnavailable `DiskFull` when `num_bytes` more do not fit."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise _disk_full(folder, f"{num_bytes} bytes are needed, {free} are free")


def remove(path: Path) -> None:
    """Removes a file or folder, there or not."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _finish(part: Path, folder: Path, record: Record) -> None:
    kept = {file.name for file in record.files}
    for left in part.iterdir():
        if left.name not in kept:
            remove(left)
    (part / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    remove(folder)
    part.rename(folder)


@contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds a lock that ends with the process, however it ends; `waiting` is called while another one holds it."""
    with path.open("a") as file:
        while not _try_lock(file):
            waiting()
            time.sleep(_POLL_SECONDS)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(folder, f"writing ended with: {error.strerror}; {shutil.disk_usage(folder.parent).free} bytes are free") from error
        text = f"{error.filename or folder}: cannot be written: {error.strerror or error}; point OCTAVO_CACHE to a folder that can"
        raise ModelUnavailable("CacheUnwritable", text) from error


def _disk_full(folder: Path, figures: str) -> ModelUnavailable:
    return ModelUnavailable("DiskFull", f"{folder}: the disk is full: {figures}; make room or point OCTAVO_CACHE to another disk")


def _num_bytes(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(folder) if entry.is_file())
