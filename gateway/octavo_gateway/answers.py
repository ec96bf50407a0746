"""What the gateway says in its own name, as bytes: answers, and errors in OpenAI's shape.

Responses of replicas are not made here; they pass through.
"""

from http import HTTPStatus

import msgspec

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_TYPES = {401: "authentication_error", 429: "rate_limit_error"}

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Refusal(Exception):
    """Why a request is not served. The text is for the client: what is wrong, with which value, what to do.

    `retry_after` is in seconds, 0 for no advice; `headers` are sent as they are.
    """

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers: tuple[tuple[bytes, bytes], ...] = ((b"retry-after", b"%d" % retry_after),) if retry_after else ()

    def body(self, request_id: str) -> bytes:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code, "request_id": request_id}
        return msgspec.json.encode({"error": error})


class Answer(msgspec.Struct, frozen=True):
    """A whole response that the gateway makes."""

    status: int
    body: bytes = b""
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


def refused(refusal: Refusal, request_id: str) -> Answer:
    return Answer(refusal.status, refusal.body(request_id), headers=refusal.headers)


def render(answer: Answer, request_id: str, connection: bytes, body: bool = True) -> bytes:
    """The response as it goes over the wire. `connection` is that header's value, b"" for none; no `body` answers HEAD."""
    lines = [_STATUS_LINES[answer.status]]
    if answer.status != HTTPStatus.NO_CONTENT:
        lines.append(b"content-type: %b\r\ncontent-length: %d\r\n" % (answer.content_type, len(answer.body)))
    lines += [b"%b: %b\r\n" % header for header in answer.headers]
    if connection:
        lines.append(b"connection: %b\r\n" % connection)
    lines.append(b"x-request-id: %b\r\n\r\n" % request_id.encode())
    if body:
        lines.append(answer.body)
    return b"".join(lines)


def error_event(refusal: Refusal, request_id: str, chunked: bool) -> bytes:
    """A server-sent event that tells a stream's reader why it ends, framed as a chunk where the stream is in chunks.

    It begins with an empty line, which ends an event that was cut in the middle.
    """
    event = b"\n\ndata: %b\n\n" % refusal.body(request_id)
    return b"%x\r\n%b\r\n" % (len(event), event) if chunked else event
