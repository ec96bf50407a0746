"""Replicas that fail in every way and clients that leave at any time: everyone who stays is answered, and nothing is left over."""

import asyncio
import contextlib
import json
import random

import httpx
import pytest

CLIENTS = 24
REQUESTS = 30


@pytest.mark.parametrize("seed", [1, 2])
async def test_nobody_waits_for_ever_and_nothing_leaks(seed, stub, gateway, answers, eventually):
    chance = random.Random(seed)
    faults = [
        answers.whole(),
        answers.stream(5, pause=0.001),
        answers.stream(3, pause=0.001, end=False),
        answers.raw(),
        answers.raw(b"HTTP/1.1 200 OK\r\ncontent-le"),
        answers.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf"),
        answers.whole(b"{}", "503 Service Unavailable"),
        answers.whole(b"{}", "429 Too Many Requests"),
        answers.raw(b"nonsense\r\n\r\n"),
    ]

    async def any_of_them(request, reader, writer):
        await asyncio.sleep(chance.random() * 0.005)
        return await chance.choice(faults)(request, reader, writer)

    replicas = [await stub(any_of_them) for _ in range(4)]
    running = await gateway(ejection_time=0.05)
    running.serve(*replicas, hold_max_wait=0.5)
    (served,) = running.gateway.fleet.models.values()
    outcomes: list[str] = []

    async def client(number):
        async with httpx.AsyncClient(base_url=running.url, timeout=10, verify=False) as http:
            for _ in range(REQUESTS):
                body = json.dumps({"model": "m", "prompt": "x" * chance.randrange(20_000)})
                task = asyncio.create_task(http.post("/v1/completions", content=body))
                if chance.random() < 0.2:
                    await asyncio.sleep(chance.random() * 0.01)
                    task.cancel()
                    outcomes.append("left")
                    with contextlib.suppress(asyncio.CancelledError, httpx.TransportError):
                        await task
                    continue
                try:
                    outcomes.append(str((await task).status_code))
                except (httpx.RemoteProtocolError, httpx.ReadError):
                    outcomes.append("cut")

    async def churn():
        while True:
            running.serve(*chance.sample(replicas, chance.randrange(5)), hold_max_wait=0.5)
            await asyncio.sleep(0.02)

    churning = asyncio.create_task(churn())
    async with asyncio.timeout(30):
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    churning.cancel()
    assert len(outcomes) == CLIENTS * REQUESTS
    assert set(outcomes) <= {"200", "429", "503", "cut", "left"}
    assert outcomes.count("200") > 0
    public = running.gateway.public
    await eventually(lambda: not public.connections and not served.open_requests and not served.hold)
    assert public.buffered == 0
    assert [replica.outstanding_tokens for replica in served.replicas.values()] == [0] * len(served.replicas)
