"""A request's way through the gateway to a replica and back, on real sockets."""

import asyncio
import json

import httpx
import openai
import pytest


async def complete(running, **kwargs):
    async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
        return await client.post("/v1/completions", json={"model": "m", "prompt": "hi"}, **kwargs)


async def test_a_request_and_its_response_pass_unchanged(stub, gateway, answers, post):
    replica = await stub(answers.whole(b'{"a": 1}', headers="x-extra: 1\r\n"))
    running = await gateway()
    running.serve(replica)
    answer = await complete(running, headers={"X-Request-Id": "abc-1", "Authorization": "Bearer k"})
    assert (answer.status_code, answer.content, answer.headers["x-extra"], answer.headers["x-request-id"]) == (200, b'{"a": 1}', "1", "abc-1")
    (seen,) = replica.requests
    assert (seen.method, seen.target, seen.json) == ("POST", "/v1/completions", {"model": "m", "prompt": "hi"})
    assert (seen.headers["x-request-id"], seen.headers["authorization"]) == ("abc-1", "Bearer k")
    assert "connection" not in seen.headers


async def test_the_openai_client_streams(stub, gateway, answers):
    replica = await stub(answers.stream(20))
    running = await gateway()
    running.serve(replica)
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="k", max_retries=0) as client:
        stream = await client.completions.create(model="m", prompt="hi", stream=True)
        text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == "".join(f"{index} " for index in range(20))


async def test_connections_to_a_replica_are_reused(stub, gateway):
    replica = await stub()
    running = await gateway()
    running.serve(replica)
    for _ in range(5):
        assert (await complete(running)).status_code == 200
    assert (len(replica.requests), replica.connections) == (5, 1)


async def test_the_least_loaded_replica_is_chosen(stub, gateway, answers, eventually):
    busy, free = await stub(answers.silent()), await stub()
    running = await gateway()
    running.serve(busy)
    waiting = asyncio.create_task(complete(running))
    await eventually(lambda: len(busy.requests) == 1)
    running.serve(busy, free)
    for _ in range(3):
        assert (await complete(running)).status_code == 200
    assert (len(busy.requests), len(free.requests)) == (1, 3)
    waiting.cancel()


@pytest.mark.parametrize("fault", ["refuses", "resets", "drains", "garbage"])
async def test_another_replica_is_tried_before_the_first_byte(fault, stub, gateway, answers, dead_address):
    bad = {
        "refuses": lambda: dead_address,
        "resets": lambda: stub(answers.raw()),
        "drains": lambda: stub(answers.whole(b"{}", "503 Service Unavailable")),
        "garbage": lambda: stub(answers.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")),
    }[fault]()
    bad = bad if isinstance(bad, str) else await bad
    good = await stub()
    running = await gateway(ejection_time=60.0)
    running.serve(bad, good)
    for _ in range(4):
        answer = await complete(running)
        assert answer.status_code == 200
    assert len(good.requests) == 4
    assert good.requests[0].json == {"model": "m", "prompt": "hi"}
    if not isinstance(bad, str):
        assert len(bad.requests) == 1, "it is avoided for a while"


async def test_an_avoided_replica_is_the_last_resort_and_comes_back(stub, gateway, answers):
    calls = iter([answers.raw(), answers.whole()])
    replica = await stub()

    async def next_answer(*args):
        return await next(calls)(*args)

    replica.handler = next_answer
    running = await gateway(ejection_time=0.2)
    running.serve(replica)
    assert (await complete(running)).status_code == 200
    assert len(replica.requests) == 2


async def test_a_stale_connection_is_no_fault_of_its_replica(stub, gateway, answers):
    replica = await stub()
    running = await gateway(max_attempts=1)
    running.serve(replica)

    async def once(request, reader, writer):
        await answers.whole()(request, reader, writer)
        return request.connection > 1 or len(replica.requests) < 1

    replica.handler = once
    for _ in range(3):
        assert (await complete(running)).status_code == 200


async def test_a_request_that_kills_replicas_ends(stub, gateway, answers):
    replicas = [await stub(answers.raw()) for _ in range(5)]
    running = await gateway(max_attempts=2)
    running.serve(*replicas)
    answer = await complete(running)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json()["error"]["code"] == "replica_failed"
    assert sum(len(replica.requests) for replica in replicas) == 2


async def test_a_stream_that_is_cut_ends_with_an_error_event(stub, gateway, answers):
    replica = await stub(answers.stream(3, end=False))
    running = await gateway()
    running.serve(replica)
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="k", max_retries=0) as client:
        stream = await client.completions.create(model="m", prompt="hi", stream=True)
        texts = []

        async def read():
            async for chunk in stream:
                texts.append(chunk.choices[0].text)

        with pytest.raises(openai.APIError, match="in the middle of its response"):
            await read()
    assert texts == ["0 ", "1 ", "2 "]


async def test_a_cut_stream_has_no_normal_end(stub, gateway, answers, post):
    replica = await stub(answers.stream(2, end=False))
    running = await gateway()
    running.serve(replica)
    received = await running.raw(post(stream=True))
    assert b"replica_failed" in received
    assert not received.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in received


@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n30\r\ndata: half a chu",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_a_cut_body_does_not_look_whole(part, stub, gateway, answers):
    replica = await stub(answers.raw(part, pause=0.05))
    running = await gateway()
    running.serve(replica)
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await complete(running)


async def test_a_body_that_ends_with_the_connection(stub, gateway, answers):
    replica = await stub(answers.raw(b"HTTP/1.1 200 OK\r\n\r\n", b"all ", b"of it"))
    running = await gateway()
    running.serve(replica)
    answer = await complete(running)
    assert (answer.text, answer.headers["connection"]) == ("all of it", "close")


async def test_interim_responses_are_swallowed(stub, gateway, answers):
    replica = await stub(
        answers.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", pause=0.02, stay=True)
    )
    running = await gateway()
    running.serve(replica)
    assert (await complete(running)).text == "ok"


async def test_a_response_to_nobody_closes_the_connection(stub, gateway, answers):
    replica = await stub(answers.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", stay=True))
    running = await gateway()
    running.serve(replica)
    for _ in range(2):
        assert (await complete(running)).text == "ok"
    assert replica.connections == 2


async def test_a_client_that_leaves_closes_the_replicas_connection(stub, gateway, answers, eventually):
    replica = await stub(answers.silent())
    running = await gateway()
    running.serve(replica)
    waiting = asyncio.create_task(complete(running))
    await eventually(lambda: len(replica.requests) == 1)
    waiting.cancel()
    await eventually(lambda: replica.left == 1, 1.0)
    (served,) = running.gateway.fleet.models.values()
    await eventually(lambda: served.open_requests == 0)
    assert [r.outstanding_tokens for r in served.replicas.values()] == [0]


async def test_a_client_that_leaves_a_stream_closes_the_replicas_connection(stub, gateway, answers, eventually):
    replica = await stub(answers.stream(10_000, pause=0.01))
    running = await gateway()
    running.serve(replica)
    async with httpx.AsyncClient(base_url=running.url) as client, client.stream("POST", "/v1/completions", json={"model": "m"}) as answer:
        async for _ in answer.aiter_bytes():
            break
    await eventually(lambda: replica.left == 1, 1.0)


async def test_a_slow_reader_holds_its_replica_back(stub, gateway, eventually):
    sent = 0

    async def flood(request, reader, writer):
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(4096):
            writer.write(b"4000\r\n" + b"x" * 16384 + b"\r\n")
            await writer.drain()
            sent += 16384
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    replica = await stub(flood)
    running = await gateway(write_high_water=65536)
    running.serve(replica)
    async with httpx.AsyncClient(base_url=running.url, timeout=30) as client, client.stream("POST", "/v1/completions", json={"model": "m"}) as answer:
        chunks = answer.aiter_raw()
        received = len(await anext(chunks))
        await asyncio.sleep(0.5)
        stopped_at = sent
        await asyncio.sleep(0.3)
        assert sent == stopped_at < 32 << 20, "all of it would be 64 MiB"
        (connection,) = running.gateway.public.connections
        assert connection.transport.get_write_buffer_size() < 1 << 20
        async for chunk in chunks:
            received += len(chunk)
    assert received == 4096 * 16384


async def test_a_reader_that_stops_is_cut_off(stub, gateway, answers, eventually, post):
    replica = await stub(answers.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n" + b"x" * 30_000_000, pause=30))
    running = await gateway(write_high_water=65536, write_timeout=0.3)
    running.serve(replica)
    _, writer = await asyncio.open_connection("127.0.0.1", running.port, limit=1024)
    writer.transport.pause_reading()
    writer.write(post())
    await eventually(lambda: len(replica.requests) == 1)
    await eventually(lambda: not running.gateway.public.connections)
    writer.close()


async def test_a_replica_that_says_nothing(stub, gateway, answers):
    replica = await stub(answers.silent())
    running = await gateway(first_byte_timeout=0.2)
    running.serve(replica)
    answer = await complete(running)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


async def test_a_replica_that_stops_in_mid_stream(stub, gateway, answers, post):
    replica = await stub(answers.stream(2, pause=30))
    running = await gateway(stream_timeout=0.2)
    running.serve(replica)
    received = await running.raw(post(stream=True))
    assert b"sent nothing for 0.2 s" in received


async def test_a_replicas_own_errors_pass(stub, gateway, answers):
    replica = await stub(answers.whole(b'{"error":{"message":"too long"}}', "400 Bad Request"))
    running = await gateway()
    running.serve(replica)
    answer = await complete(running)
    assert (answer.status_code, answer.json()) == (400, {"error": {"message": "too long"}})


async def test_an_old_client_gets_a_chunked_body_whole(stub, gateway, answers):
    replica = await stub(answers.stream(3))
    running = await gateway()
    running.serve(replica)
    body = b'{"model":"m"}'
    received = await running.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert rest.startswith(b'data: {"id"')
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_many_at_once_with_catalogue_changes(stub, gateway, answers):
    replicas = [await stub(answers.stream(5, pause=0.002)) for _ in range(3)]
    running = await gateway()
    running.serve(*replicas)
    done = asyncio.Event()

    async def churn():
        for turn in range(10_000):
            if done.is_set():
                return
            chosen = [replica for index, replica in enumerate(replicas) if index != turn % 3]
            running.serve(*chosen)
            await asyncio.sleep(0.003)

    async def one(client, index):
        answer = await client.post("/v1/completions", json={"model": "m", "user": str(index)})
        return answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n")

    churning = asyncio.create_task(churn())
    async with httpx.AsyncClient(base_url=running.url, timeout=30, limits=httpx.Limits(max_connections=32)) as client:
        results = await asyncio.gather(*(one(client, index) for index in range(300)))
    done.set()
    await churning
    assert all(results)
    assert sum(len(replica.requests) for replica in replicas) == 300
    (served,) = running.gateway.fleet.models.values()
    assert [replica.outstanding_tokens for replica in served.replicas.values()] == [0] * len(served.replicas)


async def test_body_bytes_are_the_clients_own(stub, gateway):
    replica = await stub()
    running = await gateway()
    running.serve(replica)
    body = json.dumps({"z": "ü", "model": "m", "prompt": [1, 2]}, indent=3, ensure_ascii=False).encode()
    async with httpx.AsyncClient(base_url=running.url) as client:
        await client.post("/v1/chat/completions?api-version=1", content=body)
    assert replica.requests[0].body == body
    assert replica.requests[0].target == "/v1/chat/completions?api-version=1"
