"""Requests for a model that has no ready replica wait, bounded; a gateway that is told to go finishes what is open."""

import asyncio
import json
import signal
import sys
import time

import httpx
import pytest

from octavo_api.catalogue import Catalogue


async def complete(running, model="m"):
    async with httpx.AsyncClient(base_url=running.url, timeout=10) as client:
        return await client.post("/v1/completions", json={"model": model})


@pytest.mark.parametrize("state", ["loading", "draining", None])
async def test_a_request_waits_until_a_replica_is_ready(state, stub, gateway, eventually):
    replica = await stub()
    running = await gateway()
    before = [replica] if state else []
    running.serve(*before, state=state or "ready")
    waiting = [asyncio.create_task(complete(running)) for _ in range(3)]
    (served,) = running.gateway.fleet.models.values()
    await eventually(lambda: len(served.hold) == 3)
    assert not replica.requests
    running.serve(replica)
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3


async def test_a_wait_ends(gateway):
    running = await gateway()
    running.serve(hold_max_wait=0.2)
    begun = time.monotonic()
    answer = await complete(running)
    assert 0.15 < time.monotonic() - begun < 1
    assert (answer.status_code, answer.headers["retry-after"], answer.json()["error"]["code"]) == (503, "5", "model_not_ready")
    running.serve(hold_max_wait=0.0)
    assert (await complete(running)).status_code == 503


async def test_no_more_may_wait(gateway, eventually):
    running = await gateway(retry_after=7)
    running.serve(hold_max_requests=2, hold_max_wait=0.5)
    waiting = [asyncio.create_task(complete(running)) for _ in range(2)]
    (served,) = running.gateway.fleet.models.values()
    await eventually(lambda: len(served.hold) == 2)
    answer = await complete(running)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [503] * 2
    running.serve(hold_max_requests=0)
    assert (await complete(running)).status_code == 429


async def test_a_model_that_goes_takes_its_waiting_requests_along(gateway, eventually):
    running = await gateway()
    running.serve()
    waiting = asyncio.create_task(complete(running))
    (served,) = running.gateway.fleet.models.values()
    await eventually(lambda: len(served.hold) == 1)
    running.gateway.fleet.apply(Catalogue())
    assert (await waiting).status_code == 404


async def test_a_client_that_leaves_waits_no_longer(gateway, eventually):
    running = await gateway()
    running.serve()
    waiting = asyncio.create_task(complete(running))
    (served,) = running.gateway.fleet.models.values()
    await eventually(lambda: len(served.hold) == 1)
    waiting.cancel()
    await eventually(lambda: len(served.hold) == 0)
    assert served.open_requests == 0


async def test_a_replica_that_restarts_fails_no_request(stub, gateway, eventually):
    """The catalogue still says ready while its only replica is away: requests wait and are tried again."""
    replica = await stub()
    port = int(replica.address.rpartition(":")[2])
    running = await gateway(ejection_time=0.2)
    running.serve(replica)
    assert (await complete(running)).status_code == 200
    await replica.stop()
    waiting = [asyncio.create_task(complete(running)) for _ in range(3)]
    (served,) = running.gateway.fleet.models.values()
    await eventually(lambda: len(served.hold) == 3)
    back = await stub(port=port)
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 3
    assert len(back.requests) == 3


async def test_a_draining_replica_finishes_what_it_has(stub, gateway, answers):
    replica = await stub(answers.stream(10, pause=0.03))
    running = await gateway()
    running.serve(replica)
    open_request = asyncio.create_task(complete(running))
    await asyncio.sleep(0.1)
    running.serve(replica, state="draining", hold_max_wait=0.0)
    assert (await complete(running)).status_code == 503
    assert (await open_request).text.endswith("[DONE]\n\n")


async def test_load_balancers_get_time_to_learn_of_a_shutdown(gateway, eventually):
    """A Service sends connections for a moment longer; they are answered, each once, while the health says draining."""
    running = await gateway(drain_timeout=5.0, shutdown_delay=0.4)
    draining = asyncio.create_task(running.gateway.drain())
    async with httpx.AsyncClient() as client:
        await eventually(lambda: running.gateway.public.draining)
        assert (await client.get(f"http://{running.internal}/health")).status_code == 503
        answer = await client.get(f"{running.url}/v1/models")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        await asyncio.wait_for(draining, 2.0)
        with pytest.raises(httpx.TransportError):
            await client.get(f"{running.url}/v1/models")


async def test_draining_finishes_open_requests_and_takes_no_new_ones(stub, gateway, answers, post):
    replica = await stub(answers.stream(10, pause=0.03))
    running = await gateway(drain_timeout=5.0)
    running.serve(replica)
    open_request = asyncio.create_task(running.raw(post(stream=True)))
    idle = await asyncio.open_connection("127.0.0.1", running.port)
    await asyncio.sleep(0.1)
    draining = asyncio.create_task(running.gateway.drain())
    await asyncio.sleep(0.05)
    assert await idle[0].read() == b""
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{running.internal}/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
        with pytest.raises(httpx.TransportError):
            await client.get(f"{running.url}/health")
    received = await open_request
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    await asyncio.wait_for(draining, 1.0)
    idle[1].close()


async def test_draining_does_not_wait_for_ever(stub, gateway, answers, post, eventually):
    replica = await stub(answers.silent())
    running = await gateway(drain_timeout=0.2)
    running.serve(replica)
    open_request = asyncio.create_task(running.raw(post()))
    await eventually(lambda: len(replica.requests) == 1)
    await asyncio.wait_for(running.gateway.drain(), 1.0)
    assert await open_request == b""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_drains_and_exits_with_0(signum, stub, answers, tmp_path, eventually):
    replica = await stub(answers.stream(20, pause=0.03))
    file = tmp_path / "catalogue.json"
    endpoint = {"replica": "m-0", "api": replica.address, "internal": "127.0.0.1:1", "state": "ready"}
    file.write_text(json.dumps({"models": [{"name": "m", "endpoints": [endpoint]}]}))
    code = """if True:
        import argparse, sys
        from octavo_gateway.verbs import gateway
        parser = argparse.ArgumentParser()
        gateway.add_arguments(parser)
        sys.exit(gateway.run(parser.parse_args()))"""
    flags = ["--catalogue", str(file), "--port", "0", "--internal-port", "0"]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *flags, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        line = (await process.stderr.readline()).decode()
        url = line.split("listening on ")[1].split(",")[0]
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            await asyncio.sleep(0.3)
            assert (await client.get("/health")).status_code == 200
            streaming = asyncio.create_task(client.post("/v1/completions", json={"model": "m"}))
            await eventually(lambda: replica.requests)
            process.send_signal(signum)
            assert (await streaming).text.endswith("data: [DONE]\n\n")
        assert await asyncio.wait_for(process.wait(), 5) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
