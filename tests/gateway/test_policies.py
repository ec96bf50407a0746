"""Pure parts: choosing a replica, the waiting room, the body's fields, heads, keys, settings."""

import argparse
import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_api.errors import InvalidSetting
from octavo_api.settings import rows
from octavo_gateway.answers import Refusal
from octavo_gateway.heads import BadResponse, check_beginning, parse_request, parse_response
from octavo_gateway.hold import Hold
from octavo_gateway.keys import Keys
from octavo_gateway.request import Fields, read_fields
from octavo_gateway.routing import ANSWER_TOKENS, choose, estimate_tokens
from octavo_gateway.settings import GatewaySettings
from octavo_gateway.upstream import split_address
from octavo_gateway.verbs import gateway, settings_of


@dataclass(frozen=True)
class Seen:
    name: str
    state: str = "ready"
    outstanding_tokens: int = 0
    avoided_until: float = 0.0
    last_dispatch: int = 0


@pytest.mark.parametrize(
    ("replicas", "tried", "chosen"),
    [
        ([], (), None),
        ([Seen("a", "loading"), Seen("b", "draining")], (), None),
        ([Seen("a", outstanding_tokens=5), Seen("b", outstanding_tokens=3)], (), "b"),
        ([Seen("a", last_dispatch=7), Seen("b", last_dispatch=3)], (), "b"),
        ([Seen("a", "draining"), Seen("b", outstanding_tokens=9)], (), "b"),
        ([Seen("a", avoided_until=20.0), Seen("b", outstanding_tokens=9)], (), "b"),
        ([Seen("a", avoided_until=20.0)], (), "a"),
        ([Seen("a", avoided_until=5.0), Seen("b", outstanding_tokens=9)], (), "a"),
        ([Seen("a"), Seen("b", outstanding_tokens=9)], ("a",), "b"),
        ([Seen("a")], ("a",), None),
    ],
)
def test_choose(replicas, tried, chosen):
    found = choose(replicas, [replica for replica in replicas if replica.name in tried], now=10.0)
    assert (found and found.name) == chosen


def test_estimates():
    assert estimate_tokens(400, 50) == 150
    assert estimate_tokens(400, None) == 100 + ANSWER_TOKENS
    assert estimate_tokens(0, 10, choices=3) == 30


class Waiter:
    def __init__(self, held_until):
        self.held_until = held_until


def test_hold_is_bounded_and_in_order():
    hold: Hold[Waiter] = Hold()
    first, second, third = Waiter(5.0), Waiter(1.0), Waiter(9.0)
    assert hold.add(first, 2)
    assert hold.add(second, 2)
    assert not hold.add(third, 2)
    assert (len(hold), hold.overdue(0.5), hold.overdue(1.0), len(hold)) == (2, [], [second], 1)
    assert hold.add(third, 2)
    hold.discard(second)
    released = []
    for waiter in hold.release():
        released.append(waiter)
        assert hold.add(waiter, 2), "one may come back while the others are let out"
    assert released == [first, third] == list(hold.release())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"model": "m"}, Fields("m", None, 1)),
        ({"model": "m", "max_tokens": 5, "n": 2}, Fields("m", 5, 2)),
        ({"model": "m", "max_tokens": 5, "max_completion_tokens": 7}, Fields("m", 7, 1)),
        ({"model": "m", "max_tokens": "5", "n": [1]}, Fields("m", None, 1)),
        ({"model": "m", "max_tokens": -1, "n": 0}, Fields("m", None, 1)),
        ({"model": "m", "max_tokens": True}, Fields("m", None, 1)),
        ({"model": "m", "max_tokens": 10**30}, Fields("m", None, 1)),
        ({"messages": [{"content": '"model":"no"'}], "model": "ü\n"}, Fields("ü\n", None, 1)),
    ],
)
def test_fields_of_a_body(body, expected):
    assert read_fields(json.dumps(body).encode()) == expected


@given(st.binary(max_size=100))
def test_any_body_is_read_or_refused(body):
    with pytest.raises(Refusal) as refusal:
        read_fields(body)
    assert refusal.value.status == 400


@given(
    st.lists(
        st.sampled_from(
            [
                b"GET",
                b"POST",
                b" ",
                b"/",
                b"HTTP/1.1",
                b"\r\n",
                b"\n",
                b"\r",
                b":",
                b"Host: h",
                b"Content-Length: 1",
                b"Transfer-Encoding: chunked",
                b"\0",
                b"\xff",
            ]
        ),
        max_size=20,
    )
)
def test_any_head_is_read_or_refused(pieces):
    data = b"".join(pieces) + b"\r\n\r\n"
    refused = None
    try:
        check_beginning(data)
        head = parse_request(data)
    except Refusal as refusal:
        refused = refusal.status
    assert head.path if refused is None else 400 <= refused < 600


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 OK\r\n\r\n",
        b"220 smtp.example.com\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_responses_that_cannot_be_trusted(head):
    with pytest.raises(BadResponse):
        parse_response(head)


def test_fields_of_one_connection_are_not_passed_on():
    head = parse_request(
        b"GET /version HTTP/1.1\r\nHost: h\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nX-Yours: 2\r\n\r\n"
    )
    assert head.headers == [(b"host", b"h"), (b"x-yours", b"2")]
    answer = parse_response(b"HTTP/1.1 200 OK\r\nConnection: close, X-Mine\r\nKeep-Alive: 5\r\nX-Request-Id: other\r\nX-Yours: 2\r\n\r\n")
    assert (answer.headers, answer.keep_alive) == ([(b"x-yours", b"2")], False)


def test_key_files(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    keys = Keys.read(str(file))
    assert [keys.accept(value) for value in (b"Bearer one", b"Bearer two", b"Bearer ", b"", b"Bearer one two")] == [True, True, False, False, False]
    file.write_text("\n")
    with pytest.raises(InvalidSetting, match="holds no key"):
        Keys.read(str(file))
    with pytest.raises(InvalidSetting, match="No such file"):
        Keys.read(str(tmp_path / "none"))


def test_every_setting_is_a_flag_with_help_and_bounds():
    parser = argparse.ArgumentParser()
    gateway.add_arguments(parser)
    text = parser.format_help()
    for row in rows(GatewaySettings):
        assert row.flag in text
        assert row.help
        assert row.schema.get("type") in ("string", "integer", "number") or row.schema.get("enum")
        if row.schema.get("type") in ("integer", "number"):
            assert "maximum" in row.schema
    given = parser.parse_args(["--catalogue", "x", "--port", "9000", "--ejection-time", "0.5"])
    assert settings_of(vars(given)) == GatewaySettings(port=9000, ejection_time=0.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "x"], "--port x: "),
        (["--port", "70000"], "--port 70000: "),
        (["--max-body-bytes", "1"], "--max-body-bytes 1: "),
        (["--log-level", "loud"], "--log-level loud: "),
        (["--namespace", "a"], "--namespace: only --kubernetes"),
    ],
)
def test_wrong_flags_are_named(flags, message):
    parser = argparse.ArgumentParser()
    gateway.add_arguments(parser)
    with pytest.raises(InvalidSetting, match=message):
        gateway.run(parser.parse_args(["--catalogue", "x", *flags]))


@pytest.mark.parametrize(("text", "expected"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:80", ("::1", 80)), ("name:1", ("name", 1))])
def test_addresses(text, expected):
    assert split_address(text) == expected


@pytest.mark.parametrize("text", ["", "80", ":80", "h:", "h:x", "h:0", "h:70000"])
def test_bad_addresses(text):
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(text)
