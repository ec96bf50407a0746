"""Where a message's body ends (RFC 9112, section 6), read strictly and without copying.

Both directions use these: a request's body is collected through `payload`, a response is forwarded as it
came and only its end is found. Heads, and which framing a head asks for, are left to `heads`.
"""

import re
from typing import Protocol

MORE = -1
"""What `feed` returns while the body goes on."""

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_MAX_LINE = 4096
_MAX_TRAILERS = 8192


class BadFraming(Exception):
    """A chunked body is not one; the text says why."""


class Framing(Protocol):
    def feed(self, data: bytes, at: int = 0, payload: list[bytes] | None = None) -> int:
        """Reads on from `data[at]`, adding the body's own bytes to `payload`.

        Returns: the index in `data` just past the body's end, or `MORE`.
        Raises: BadFraming.
        """
        ...

    @property
    def between_chunks(self) -> bool:
        """Whether a chunk of ours could be written here."""
        ...

    @property
    def ends_with_connection(self) -> bool: ...


class Sized:
    """A body of `length` bytes; 0 for none."""

    between_chunks = False
    ends_with_connection = False

    def __init__(self, length: int) -> None:
        self._left = length

    def feed(self, data: bytes, at: int = 0, payload: list[bytes] | None = None) -> int:
        end = min(len(data), at + self._left)
        if payload is not None and end > at:
            payload.append(data[at:end])
        self._left -= end - at
        return MORE if self._left else end


class UntilClose:
    """A body that ends with its connection."""

    between_chunks = False
    ends_with_connection = True

    def feed(self, data: bytes, at: int = 0, payload: list[bytes] | None = None) -> int:
        if payload is not None and at < len(data):
            payload.append(data[at:])
        return MORE


class Chunked:
    """A chunked body. Extensions and trailers are read and mean nothing; lines end in CRLF, nothing else."""

    ends_with_connection = False

    def __init__(self) -> None:
        self._left = 0
        self._ending = b""
        self._line = b""
        self._in_trailers = False
        self._trailer_bytes = 0

    @property
    def between_chunks(self) -> bool:
        return not (self._left or self._ending or self._line or self._in_trailers)

    def feed(self, data: bytes, at: int = 0, payload: list[bytes] | None = None) -> int:
        end = len(data)
        while at < end:
            if self._left:
                stop = min(end, at + self._left)
                if payload is not None:
                    payload.append(data[at:stop])
                self._left -= stop - at
                at = stop
                if not self._left:
                    self._ending = b"\r\n"
            elif self._ending:
                found = data[at : at + len(self._ending)]
                if not self._ending.startswith(found):
                    raise BadFraming("a chunk is longer than its size says")
                self._ending = self._ending[len(found) :]
                at += len(found)
            else:
                newline = data.find(b"\n", at)
                stop = end if newline < 0 else newline + 1
                self._line += data[at:stop]
                at = stop
                if len(self._line) > _MAX_LINE:
                    raise BadFraming(f"a line between chunks is longer than {_MAX_LINE} bytes")
                if newline >= 0 and self._line_ended():
                    return at
        return MORE

    def _line_ended(self) -> bool:
        """Takes a whole line between chunks; returns whether it was the body's last."""
        line, self._line = self._line, b""
        if not self._in_trailers:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise BadFraming(f"{line[:40]!r} is not the size of a chunk")
            self._left = int(match[1], 16)
            self._in_trailers = self._left == 0
            return False
        if not line.endswith(b"\r\n"):
            raise BadFraming("a trailer does not end in CRLF")
        self._trailer_bytes += len(line)
        if self._trailer_bytes > _MAX_TRAILERS:
            raise BadFraming(f"trailers are longer than {_MAX_TRAILERS} bytes")
        return line == b"\r\n"
