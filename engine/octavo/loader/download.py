"""One file over HTTP: checked against its sha256 on the way, gone on with after an interruption, retried while it gets on."""

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx
from msgspec import Struct

from octavo.loader.cache import Progress
from octavo_api.errors import ModelUnavailable

ATTEMPTS = 5
"""Tries in a row that bring no byte before a download is given up."""

_BLOCK = 1 << 20
_BACKOFF_SECONDS = 0.5

logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole addresses, and those of file stores are signed


class Remote(Struct, frozen=True):
    """A file to fetch. `name` is what messages call it; "" and 0 stand for an unknown sha256 and size."""

    name: str
    url: str
    sha256: str = ""
    size: int = 0
    auth: tuple[str, str] | None = None
    headers: dict[str, str] = {}


class Refused(Exception):
    """The server answers, and does not give the file; `code` is what a model hub adds to the status."""

    def __init__(self, status: int, host: str, code: str = "") -> None:
        super().__init__(f"{host} answers {status}" + (f" {code}" if code else ""))
        self.status = status
        self.code = code


class _Interrupted(Exception):
    """The transfer has ended too early and is worth another try."""


def download(client: httpx.Client, remote: Remote, target: Path, progress: Progress) -> str:
    """Fetches `remote` to `target` and returns its sha256; bytes that lie beside it from an earlier try are not fetched again.

    Raises:
        Refused: the server says no.
        ModelUnavailable: `SourceUnreachable`, nothing comes any more; `ChecksumMismatch`, other bytes came than promised.
    """
    part = target.with_name(target.name + ".download")
    if target.exists():  # from an earlier run, which may have been killed since
        os.replace(target, part)
    resumed = part.exists() and part.stat().st_size > 0
    digest = _all_of_it(client, remote, part, progress)
    if remote.sha256 and digest != remote.sha256 and resumed:
        part.unlink()
        digest = _all_of_it(client, remote, part, progress)
    if remote.sha256 and digest != remote.sha256:
        part.unlink()
        raise ModelUnavailable("ChecksumMismatch", f"{remote.name}: sha256 is {digest}, must be {remote.sha256}; removed, try again or ask who runs the server")
    os.replace(part, target)
    return digest


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _all_of_it(client: httpx.Client, remote: Remote, part: Path, progress: Progress) -> str:
    """Goes on until the whole file is in `part`; returns its sha256."""
    failures = 0
    with part.open("a+b") as file:
        while True:
            before = file.seek(0, os.SEEK_END)
            try:
                digest = _rest_of_it(client, remote, file, progress)
                os.fsync(file.fileno())
                return digest
            except (httpx.RequestError, _Interrupted) as error:
                failures = 1 if file.seek(0, os.SEEK_END) > before else failures + 1
                if failures == ATTEMPTS:
                    cause = str(error) or type(error).__name__
                    text = f"{remote.name}: cannot be fetched from {host_of(remote.url)}: {cause}; check the network, what has come is kept"
                    raise ModelUnavailable("SourceUnreachable", text) from error
                time.sleep(backoff_seconds(failures))


def _rest_of_it(client: httpx.Client, remote: Remote, file: BinaryIO, progress: Progress) -> str:
    digest = hashlib.sha256()
    done = 0
    for block in _blocks(file):
        digest.update(block)
        done += len(block)
    if remote.size and done == remote.size:
        progress(done, remote.size)
        return digest.hexdigest()
    headers = {"Accept-Encoding": "identity", **remote.headers} | ({"Range": f"bytes={done}-"} if done else {})
    with client.stream("GET", remote.url, headers=headers, auth=remote.auth or httpx.USE_CLIENT_DEFAULT) as response:
        if not _goes_on(response, remote, file, done):
            digest, done = hashlib.sha256(), 0
        total = remote.size or done + int(response.headers.get("Content-Length", 0))
        progress(done, total)
        for chunk in response.iter_raw():
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
            if total and done > total:
                file.truncate(0)
                raise _Interrupted(f"more than its {total} bytes came")
        file.flush()
    if done < total:
        raise _Interrupted(f"{done} of {total} bytes came")
    return digest.hexdigest()


def _goes_on(response: httpx.Response, remote: Remote, file: BinaryIO, done: int) -> bool:
    """Whether the answer begins where `file` ends; empties the file when the answer is the whole."""
    status = response.status_code
    if status == httpx.codes.PARTIAL_CONTENT and response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
        return True
    if status == httpx.codes.OK:
        file.truncate(0)
        return False
    if status in (httpx.codes.PARTIAL_CONTENT, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE):
        file.truncate(0)
        raise _Interrupted("what has come does not fit what is there")
    if in_trouble(status):
        raise _Interrupted(f"it answers {status}")
    raise Refused(status, host_of(remote.url), response.headers.get("X-Error-Code", ""))


def in_trouble(status: int) -> bool:
    """Whether the same question may get another answer later."""
    return status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR


def backoff_seconds(failures: int) -> float:
    """How long to wait after so many failures in a row."""
    return _BACKOFF_SECONDS * 2.0 ** (failures - 1)


def host_of(url: str) -> str:
    """Host of an address, for messages: addresses themselves may hold passwords or signatures."""
    return httpx.URL(url).host


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(_BLOCK):
        yield block
