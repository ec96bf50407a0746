"""HTTP/1.1 as clients speak it, well and badly: order, framing, limits, and always an answer or a close."""

import asyncio
import re
import time

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HOST = b"Host: h\r\n"
MALFORMED = {
    "no HTTP at all": (b"hello\r\n\r\n", 400),
    "TLS to a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "bare LF ends the head": (b"GET /health HTTP/1.1\nHost: h\n\n", 400),
    "bare LF in the head": (b"GET /health HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", 400),
    "bare LF after the request line": (b"GET /health HTTP/1.1\nHost: h\r\n\r\n", 400),
    "bare CR in a value": (b"GET /health HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", 400),
    "space before the colon": (b"GET /health HTTP/1.1\r\nHost : h\r\n\r\n", 400),
    "a folded header": (b"GET /health HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
    "a NUL": (b"GET /health HTTP/1.1\r\nHost: h\0\r\n\r\n", 400),
    "no name": (b"GET /health HTTP/1.1\r\n: h\r\n\r\n", 400),
    "no colon": (b"GET /health HTTP/1.1\r\nHost\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "length and chunked": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunked and length": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
    "two lengths": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "one length twice": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a list of lengths": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
    "a signed length": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", 400),
    "a negative length": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: -3\r\n\r\nabc", 400),
    "a hex length": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc", 400),
    "an endless length": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nabc", 400),
    "an empty length": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\nabc", 400),
    "two codings": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked not last": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "an unknown coding": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "a coding we lack": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked in HTTP/1.0": (b"POST /v1/completions HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk without a size": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk of bad size": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400),
    "a negative chunk": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", 400),
    "a huge chunk": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc", 400),
    "a chunk ended by LF": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", 400),
    "a chunk that is too long": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
    "HTTP/2 without being asked": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 505),
    "HTTP/1.2": (b"GET /health HTTP/1.2\r\nHost: h\r\n\r\n", 400),
    "HTTP/3.0": (b"GET /health HTTP/3.0\r\nHost: h\r\n\r\n", 400),
    "another protocol": (b"GET /health RTSP/1.0\r\nHost: h\r\n\r\n", 505),
    "an unknown method": (b"BREW /health HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "a method in lower case": (b"get /health HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "a tunnel": (b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 404),
    "a space in the target": (b"GET /health x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "carriage returns without end": (b"\r" * 100_000, 400),
    "empty lines without end": (b"\r\n" * 100_000, 400),
    "a strange expectation": (b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\nContent-Length: 2\r\n\r\n", 417),
}


def statuses(received: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+) ", received)]


@pytest.mark.parametrize("name", MALFORMED)
async def test_each_malformed_request_gets_its_status_and_the_connection_ends(name, stub, gateway):
    replica = await stub()
    running = await gateway()
    running.serve(replica)
    data, status = MALFORMED[name]
    begun = time.monotonic()
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    received = await running.raw(data, smuggled, pause=0.01, half_close=True)
    if status != 404:
        assert statuses(received) == [status], received
        assert b"connection: close" in received
    assert statuses(received)[0] == status
    assert b'"error"' in received
    assert time.monotonic() - begun < 2
    assert not replica.requests


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from([*(data for data, _ in MALFORMED.values()), b"\r\n", b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n", b"\0", b"0\r\n\r\n"]), max_size=4
    ),
    st.binary(max_size=40),
)
def test_whatever_comes_the_gateway_lives(fuzz_runner, pieces, tail):
    received, alive = fuzz_runner(b"".join(pieces) + tail)
    assert alive
    assert all(200 <= status < 600 for status in statuses(received))


@pytest.fixture
def fuzz_runner(gateway, stub):
    """One gateway on a loop of its own, for many examples."""
    import uvloop

    from octavo_gateway.serve import Gateway
    from octavo_gateway.settings import GatewaySettings

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        served = None

        async def start():
            made = Gateway(GatewaySettings(port=0, internal_port=0, drain_timeout=0.0))
            return made, int((await made.listen())[0].rpartition(":")[2])

        served, port = runner.run(start())

        async def one(data: bytes) -> tuple[bytes, bool]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(5):
                try:
                    received = await reader.read()
                except ConnectionError:
                    received = b""
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            alive = b" 404 " in await reader.read()
            writer.close()
            return received, alive

        yield lambda data: runner.run(one(data))
        runner.run(served.drain())


async def test_pipelined_requests_are_answered_in_order(stub, gateway, answers, post):
    async def slow_first(request, reader, writer):
        number = request.json["prompt"]
        await asyncio.sleep(0.2 if number == 0 else 0)
        return await answers.whole(b"answer %d" % number)(request, reader, writer)

    replica = await stub(slow_first)
    running = await gateway()
    running.serve(replica)
    received = await running.raw(b"".join([*(post(prompt=number) for number in range(5)), b"GET /version HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"]))
    assert re.findall(rb"answer (\d)|(version)", received) == [*((b"%d" % number, b"") for number in range(5)), (b"", b"version")]


async def test_a_request_may_come_byte_by_byte(stub, gateway, post):
    replica = await stub()
    running = await gateway()
    running.serve(replica)
    received = await running.raw(*(bytes([byte]) for byte in post(headers="Connection: close\r\n")), pause=0.0005)
    assert statuses(received) == [200]


async def test_a_pipeline_of_many_small_requests_is_read_only_as_fast_as_it_is_answered(gateway):
    running = await gateway(write_high_water=4096)
    running.serve(*(), **{"aliases": tuple(f"alias-{index}" for index in range(200))})
    _, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
    writer.transport.pause_reading()
    blob = b"GET /v1/models HTTP/1.1\r\nHost: h\r\n\r\n" * 1000

    async def flood():
        while True:
            writer.write(blob)
            await writer.drain()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flood(), 1.0)
    (connection,) = running.gateway.public.connections
    assert connection.transport.get_write_buffer_size() < 1 << 20
    assert len(connection._unread) < 1 << 20
    writer.transport.abort()


async def test_chunked_bodies(stub, gateway):
    replica = await stub()
    running = await gateway()
    running.serve(replica)
    received = await running.raw(
        b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        b'4\r\n{"mo\r\n6;ext="v"\r\ndel":"\r\n',
        b'3\r\nm"}\r\n0\r\nTrailer: x\r\n\r\n',
        pause=0.02,
    )
    assert statuses(received) == [200]
    assert replica.requests[0].body == b'{"model":"m"}'
    assert replica.requests[0].headers["content-length"] == "13"
    assert "transfer-encoding" not in replica.requests[0].headers


async def test_expect_100_continue(stub, gateway, post):
    replica = await stub()
    running = await gateway()
    running.serve(replica)
    head, _, body = post(headers="Expect: 100-continue\r\nConnection: close\r\n").partition(b"\r\n\r\n")
    assert statuses(await running.raw(head + b"\r\n\r\n", body, pause=0.2)) == [100, 200]
    assert "expect" not in replica.requests[0].headers
    assert statuses(await running.raw(head.replace(b"/v1/completions", b"/v1/nothing") + b"\r\n\r\n", half_close=True)) == [404]


async def test_head_and_options(gateway):
    running = await gateway()
    running.serve()
    async with httpx.AsyncClient(base_url=running.url) as client:
        whole, empty = await client.get("/v1/models"), await client.head("/v1/models")
        assert (empty.status_code, empty.content, empty.headers["content-length"]) == (200, b"", whole.headers["content-length"])
        options = await client.options("/v1/chat/completions")
        assert (options.status_code, options.headers["allow"]) == (204, "POST, OPTIONS")
        wrong = await client.get("/v1/chat/completions")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, OPTIONS")
        assert (await client.post("/health")).status_code == 405


async def test_http_1_0(gateway):
    running = await gateway()
    running.serve()
    received = await running.raw(b"\r\nGET /version HTTP/1.0\r\n\r\n")
    assert statuses(received) == [200]
    assert b"connection: close" in received
    received = await running.raw(b"GET /version HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2, half_close=True)
    assert statuses(received) == [200, 200]


async def test_absolute_targets_and_upgrade_offers(gateway):
    running = await gateway()
    running.serve()
    received = await running.raw(
        b"GET http://h/version?x=1 HTTP/1.1\r\nHost: h\r\n\r\nGET /version HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", half_close=True
    )
    assert statuses(received) == [200, 200]


async def test_a_half_closed_client_gets_what_it_asked_for_so_far(gateway):
    running = await gateway()
    running.serve()
    received = await running.raw(b"GET /version HTTP/1.1\r\nHost: h\r\n\r\n" * 3 + b"GET /ver", half_close=True)
    assert statuses(received) == [200, 200, 200, 400]


async def test_limits_of_size(stub, gateway, post):
    replica = await stub()
    running = await gateway(max_header_bytes=2048, max_body_bytes=4096)
    running.serve(replica)
    assert statuses(await running.raw(b"GET /version HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 4000)) == [431]
    assert statuses(await running.raw(b"GET /version HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 4000 + b"\r\n\r\n")) == [431]
    assert statuses(await running.raw(post(prompt="x" * 5000))) == [413]
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    assert statuses(await running.raw(b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", *[chunk] * 8, pause=0.01)) == [413]
    assert not replica.requests
    assert running.gateway.public.buffered == 0


async def test_bodies_are_bounded_all_together(stub, gateway, answers, post, eventually):
    replica = await stub(answers.silent())
    running = await gateway(max_buffered_bytes=2048)
    running.serve(replica)
    first = asyncio.create_task(running.raw(post(prompt="x" * 1500), patience=3))
    await eventually(lambda: running.gateway.public.buffered > 1500)
    received = await running.raw(post(prompt="x" * 1500))
    assert statuses(received) == [503]
    assert b"retry-after" in received
    first.cancel()
    await eventually(lambda: running.gateway.public.buffered == 0)


async def test_slow_clients(gateway, stub):
    running = await gateway(header_timeout=0.2, body_timeout=0.2, keep_alive_timeout=0.3, min_body_rate=1000)
    running.serve(await stub())
    assert statuses(await running.raw(b"GET /version HT")) == [408]
    assert statuses(await running.raw(*[b"x"] * 50, pause=0.02)) == [408]
    head = b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n"
    assert statuses(await running.raw(head + b"x")) == [408]
    assert statuses(await running.raw(head, *[b"x"] * 50, pause=0.02)) == [408]
    begun = time.monotonic()
    assert await running.raw() == b""
    assert await running.raw(b"GET /version HTTP/1.1\r\nHost: h\r\n\r\n") != b""
    assert time.monotonic() - begun < 2


async def test_too_many_connections(gateway):
    running = await gateway(max_connections=2)
    held = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(2)]
    await asyncio.sleep(0.05)
    received = await running.raw()
    assert statuses(received) == [503]
    assert b"retry-after" in received
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.05)
    assert statuses(await running.raw(b"GET /version HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")) == [200]


async def test_a_refused_upload_still_gets_its_answer(gateway):
    running = await gateway()
    running.serve()
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n"
    assert statuses(await running.raw(head, *[b"x" * 100_000] * 30)) == [404]


async def test_request_ids(gateway):
    running = await gateway()
    running.serve()
    async with httpx.AsyncClient(base_url=running.url) as client:
        assert (await client.get("/version", headers={"X-Request-Id": "me-1"})).headers["x-request-id"] == "me-1"
        made = [(await client.get("/version", headers={"X-Request-Id": bad})).headers["x-request-id"] for bad in ("", "a b", "x" * 129, "<script>")]
        assert len(set(made)) == 4
        assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
        wrong = await client.get("/nothing", headers={"X-Request-Id": "me-2"})
        assert wrong.json()["error"]["request_id"] == "me-2"
