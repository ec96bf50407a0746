"""What is known of one HTTP request while it is open, for its log line and the metrics. No text of the prompt or the answer."""

import re
import time
import uuid

from starlette.types import Scope

from octavo_api.replica import REQUEST_ID_HEADER

_HEADER = REQUEST_ID_HEADER.encode()
_GOOD_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_KEY = "octavo.record"

HUNG_UP = 499
"""The status that the log knows of a client that left before its response began."""


class Record:
    """One request; times are of `time.perf_counter`, in seconds."""

    __slots__ = ("begun", "cached_tokens", "choices", "finish_reason", "first_token", "model", "output_tokens", "prompt_tokens", "request_id", "status")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.begun = time.perf_counter()
        self.status = HUNG_UP
        self.model = ""
        self.choices = 1
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.output_tokens = 0
        self.first_token: float | None = None
        self.finish_reason = ""

    @classmethod
    def open(cls, scope: Scope) -> "Record":
        """Begins the record of an ASGI request, under the id that it brings or a new one."""
        given = header(scope, _HEADER)
        record = cls(given.decode() if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex)
        scope[_KEY] = record
        return record

    @staticmethod
    def of(scope: Scope) -> "Record":
        found: Record = scope[_KEY]
        return found

    @property
    def duration(self) -> float:
        return time.perf_counter() - self.begun

    def line(self, method: str, path: str) -> str:
        """The log line."""
        words = [self.request_id, method, path, str(self.status)]
        if self.prompt_tokens:
            ttft = f"{self.first_token - self.begun:.3f}s" if self.first_token is not None else "none"
            words += [
                f"model={self.model}",
                f"prompt_tokens={self.prompt_tokens}",
                f"cached_tokens={self.cached_tokens}",
                f"output_tokens={self.output_tokens}",
                f"ttft={ttft}",
                f"finish={self.finish_reason or 'none'}",
            ]
        return " ".join([*words, f"duration={self.duration:.3f}s"])


def header(scope: Scope, name: bytes) -> bytes:
    """The first header of this name, given in lower case; empty without one."""
    return next((value for key, value in scope["headers"] if key == name), b"")
