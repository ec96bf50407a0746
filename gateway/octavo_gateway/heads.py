"""Request and response heads: parsed by httptools, checked here, written anew for the other side.

What a head may say about its body is decided here and nowhere else, so that the gateway and a replica can
never disagree about where a request ends. Fields that concern one connection only are not passed on.
"""

import random
import re
from collections.abc import Iterable

import httptools
from msgspec import Struct

from octavo_api.replica import REQUEST_ID_HEADER
from octavo_gateway.answers import Refusal
from octavo_gateway.framing import Chunked, Framing, Sized, UntilClose

Headers = list[tuple[bytes, bytes]]

_REQUEST_ID = REQUEST_ID_HEADER.encode()
_CONNECTION_FIELDS = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer", b"upgrade"}
)
_FRAMING_FIELDS = frozenset({b"content-length", b"transfer-encoding"})
_ONCE_AND_PASSED = frozenset({b"host", b"authorization"})
_ONCE = _FRAMING_FIELDS | _ONCE_AND_PASSED | {b"expect", _REQUEST_ID}
_ORDINARY_TOKENS = frozenset({b"close", b"keep-alive"})
_GOOD_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_VERSIONS = (b" HTTP/1.1", b" HTTP/1.0")


class BadResponse(Exception):
    """A replica's response head cannot be trusted; the text says why."""


class RequestHead(Struct):
    """One request's head. `path` is without the query; `headers` are those that are passed on, names in lower case."""

    method: str
    target: bytes
    path: str
    http_1_0: bool
    keep_alive: bool
    expects_continue: bool
    length: int
    chunked: bool
    request_id: str
    authorization: bytes
    headers: Headers

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length > 0

    def framing(self) -> Framing:
        return Chunked() if self.chunked else Sized(self.length)


class ResponseHead(Struct):
    status: int
    reason: bytes
    keep_alive: bool
    length: int | None
    chunked: bool
    event_stream: bool
    headers: Headers

    def framing(self, method: str) -> Framing:
        if method == "HEAD" or self.status in (204, 304):
            return Sized(0)
        if self.chunked:
            return Chunked()
        return UntilClose() if self.length is None else Sized(self.length)


def new_request_id() -> str:
    return f"{random.getrandbits(128):032x}"


class _Fields:
    """What httptools calls back with."""

    def __init__(self) -> None:
        self.target = b""
        self.reason = b""
        self.headers: Headers = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def check_beginning(data: bytes) -> None:
    """Refuses early what can never become a head, so that nobody waits for its end."""
    if not data[:1].isalpha() or _BARE_LF.search(data):
        raise _not_http()


def _not_http() -> Refusal:
    return Refusal(400, "this is not an HTTP/1.1 request", code="bad_request")


def parse_request(data: bytes) -> RequestHead:
    """Reads a whole head, `data` ending in its empty line.

    Raises:
        Refusal: with the status that the malformed head deserves.
    """
    if not data[:1].isalpha():
        raise _not_http()
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # an offer to speak something else, which a server may leave unanswered
    except httptools.HttpParserError as error:
        raise Refusal(400, f"the request's head is malformed: {error}", code="bad_request") from error
    version = data[: data.index(b"\r\n")][-9:]
    if version not in _VERSIONS:
        raise Refusal(505, "only HTTP/1.1 and HTTP/1.0 are spoken here", code="http_version_not_supported")
    return _request(parser.get_method().decode(), fields, version == b" HTTP/1.0")


def _request(method: str, fields: _Fields, http_1_0: bool) -> RequestHead:
    single, passed, connection = _sort(fields.headers)
    if b"host" not in single and not http_1_0:
        raise Refusal(400, "the Host header is missing", code="bad_request")
    coding = single.get(b"transfer-encoding")
    if coding is not None and (http_1_0 or coding.lower() != b"chunked"):
        raise Refusal(400 if http_1_0 else 501, "the only Transfer-Encoding understood is chunked, in HTTP/1.1", code="bad_request")
    if coding is not None and b"content-length" in single:
        raise Refusal(400, "a request has a Content-Length or a Transfer-Encoding, not both", code="bad_request")
    expect = single.get(b"expect", b"").lower()
    if expect not in (b"", b"100-continue"):
        raise Refusal(417, "the only expectation understood is 100-continue", code="expectation_failed")
    target = _origin_form(fields.target)
    request_id = single.get(_REQUEST_ID, b"")
    return RequestHead(
        method=method,
        target=target,
        path=target.partition(b"?")[0].decode("latin-1"),
        http_1_0=http_1_0,
        keep_alive=b"keep-alive" in connection if http_1_0 else b"close" not in connection,
        expects_continue=bool(expect) and not http_1_0,
        length=_length(single.get(b"content-length", b"0")),
        chunked=coding is not None,
        request_id=request_id.decode() if request_id and _GOOD_ID.fullmatch(request_id) else new_request_id(),
        authorization=single.get(b"authorization", b""),
        headers=passed,
    )


def _sort(headers: Headers) -> tuple[dict[bytes, bytes], Headers, set[bytes]]:
    """Headers that may come once, by name; those passed on as they are; the tokens of Connection."""
    single: dict[bytes, bytes] = {}
    passed: Headers = []
    connection: set[bytes] = set()
    for name, value in headers:
        if name in _ONCE:
            if name in single:
                raise Refusal(400, f"the header {name.decode()} comes more than once", code="bad_request")
            single[name] = value
            if name in _ONCE_AND_PASSED:
                passed.append((name, value))
        elif name == b"connection":
            connection.update(token.strip() for token in value.lower().split(b","))
        elif name not in _CONNECTION_FIELDS:
            passed.append((name, value))
    if not connection <= _ORDINARY_TOKENS:
        passed = [header for header in passed if header[0] not in connection]
    return single, passed, connection


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise Refusal(400, f"Content-Length {value[:40]!r} is not a number of bytes", code="bad_request")
    return int(value)


def _origin_form(target: bytes) -> bytes:
    """`http://host/path` → `/path`; a proxy's form that every server must accept."""
    if target[:7].lower() == b"http://":
        _, slash, path = target[7:].partition(b"/")
        return slash + path if slash else b"/"
    return target


def forwarded_request(head: RequestHead, body_bytes: int) -> bytes:
    """The head as a replica gets it: one framing, our request id, nothing of the client's connection."""
    lines = [f"{head.method} ".encode(), head.target, b" HTTP/1.1\r\n"]
    lines += [b"%b: %b\r\n" % header for header in head.headers]
    lines.append(b"content-length: %d\r\n%b: %b\r\nvia: 1.1 octavo\r\n\r\n" % (body_bytes, _REQUEST_ID, head.request_id.encode()))
    return b"".join(lines)


def parse_response(data: bytes) -> ResponseHead:
    """Reads a whole response head, `data` ending in its empty line.

    Raises:
        BadResponse: nothing of it should reach a client.
    """
    fields = _Fields()
    parser = httptools.HttpResponseParser(fields)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as error:
        raise BadResponse("it switches protocols") from error
    except httptools.HttpParserError as error:
        raise BadResponse(f"its head is malformed: {error}") from error
    return _response(int(parser.get_status_code()), fields, data.startswith(b"HTTP/1.1 "))


def _response(status: int, fields: _Fields, http_1_1: bool) -> ResponseHead:
    coding, lengths, passed = b"", set(), []
    connection: set[bytes] = set()
    event_stream = False
    for name, value in fields.headers:
        if name == b"transfer-encoding":
            coding += value.lower()
        elif name == b"content-length":
            lengths.add(value)
        elif name == b"connection":
            connection.update(token.strip() for token in value.lower().split(b","))
        elif name not in _CONNECTION_FIELDS and name != _REQUEST_ID:
            event_stream = event_stream or (name == b"content-type" and value.startswith(b"text/event-stream"))
            passed.append((name, value))
    if coding not in (b"", b"chunked") or len(lengths) > 1 or (coding and lengths):
        raise BadResponse("it says more than one thing about its body's length")
    return ResponseHead(
        status=status,
        reason=fields.reason,
        keep_alive=http_1_1 and b"close" not in connection,
        length=int(lengths.pop()) if lengths else None,
        chunked=bool(coding),
        event_stream=event_stream,
        headers=passed,
    )


def forwarded_response(head: ResponseHead, request_id: str, framing: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head as a client gets it; `framing` are the headers that concern this client's connection."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    lines += [b"%b: %b\r\n" % header for header in (*head.headers, *framing)]
    lines.append(b"%b: %b\r\n\r\n" % (_REQUEST_ID, request_id.encode()))
    return b"".join(lines)
