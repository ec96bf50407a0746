"""Paths, keys, models, and the internal listener."""

import httpx
import openai
import pytest

from octavo_api import metrics
from octavo_api.catalogue import Catalogue


@pytest.mark.parametrize(
    "path",
    ["/", "/metrics", "/live", "/progress", "/drain", "/load", "/v1", "/v1/completions/", "/v1//completions", "/v1/%63ompletions", "/v1/../metrics", "/docs"],
)
async def test_only_listed_paths_exist(path, stub, gateway):
    replica = await stub()
    running = await gateway()
    running.serve(replica)
    received = await running.raw(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.1 404 ")
    assert b"/v1/chat/completions" in received
    assert not replica.requests


async def test_models_are_listed_asleep_or_not(stub, gateway):
    running = await gateway()
    awake = running.model(await stub(), model="awake", created=5)
    asleep = running.model(model="org/asleep", aliases=("nap",))
    running.gateway.fleet.apply(Catalogue(models=(awake, asleep)))
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="k") as client:
        listed = [model.id async for model in client.models.list()]
        assert listed == ["awake", "org/asleep", "nap"]
        assert (await client.models.retrieve("awake")).created == 5
        assert (await client.models.retrieve("org/asleep")).id == "org/asleep"
        with pytest.raises(openai.NotFoundError, match="awake, org/asleep, nap"):
            await client.models.retrieve("nobody")


async def test_an_unknown_model_lists_those_there_are(gateway):
    running = await gateway()
    async with httpx.AsyncClient(base_url=running.url) as client:
        answer = await client.post("/v1/completions", json={"model": "x"})
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "there is no model 'x'; there is none yet")
        running.gateway.fleet.apply(Catalogue(models=tuple(running.model(model=f"m{index}") for index in range(60))))
        answer = await client.post("/v1/completions", json={"model": "x"})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "m0, m1" in error["message"]
        assert "and 10 more" in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"model": 1}', b'{"model": null}', b"\xff", b'"m"', b"[" * 100_000])
async def test_bodies_without_a_model(body, gateway):
    running = await gateway()
    running.serve()
    async with httpx.AsyncClient(base_url=running.url) as client:
        answer = await client.post("/v1/completions", content=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
        assert (await client.get("/version")).status_code == 200


async def test_aliases_reach_the_model_and_the_first_claim_wins(stub, gateway, caplog):
    one, two = await stub(), await stub()
    running = await gateway()
    first = running.model(one, model="a", aliases=("shared",))
    second = running.model(two, model="b", aliases=("shared", "a"))
    third = running.model(two, model="a")
    running.gateway.fleet.apply(Catalogue(models=(first, second, third)))
    async with httpx.AsyncClient(base_url=running.url) as client:
        for name in ("a", "shared"):
            assert (await client.post("/v1/completions", json={"model": name})).status_code == 200
    assert (len(one.requests), len(two.requests)) == (2, 0)
    assert caplog.text.count("is taken by another model") == 3


async def test_api_keys(stub, gateway):
    running = await gateway(keys=["one", "two"])
    running.serve(await stub())
    async with httpx.AsyncClient(base_url=running.url) as client:
        for headers in ({}, {"Authorization": "Bearer three"}, {"Authorization": "Basic one"}, {"Authorization": "one"}, {"Authorization": "Bearer"}):
            answer = await client.get("/v1/models", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert (await client.post("/v1/completions", json={"model": "m"}, headers=headers)).status_code == 401
        for headers in ({"Authorization": "Bearer one"}, {"Authorization": "bearer two"}):
            assert (await client.post("/v1/completions", json={"model": "m"}, headers=headers)).status_code == 200
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/version")).status_code == 200


async def test_health_waits_for_a_catalogue(gateway):
    running = await gateway()
    async with httpx.AsyncClient() as client:
        for address in (running.public, running.internal):
            answer = await client.get(f"http://{address}/health")
            assert (answer.status_code, answer.json()) == (503, {"status": "loading"})
        running.serve()
        for address in (running.public, running.internal):
            answer = await client.get(f"http://{address}/health")
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_the_internal_listener(stub, gateway, dead_address):
    running = await gateway()
    running.serve(await stub(), dead_address)
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            assert (await client.post(f"{running.url}/v1/completions", json={"model": "m"})).status_code == 200
        assert (await client.get(f"{running.url}/nothing")).status_code == 404
        assert (await client.get(f"http://{running.internal}/live")).status_code == 200
        assert (await client.get(f"http://{running.internal}/v1/models")).status_code == 404
        text = (await client.get(f"http://{running.internal}/metrics")).text
    lines = text.splitlines()
    assert f'{metrics.GATEWAY_REQUESTS}{{code="200",model="m"}} 3.0' in lines
    assert f'{metrics.GATEWAY_REQUESTS}{{code="404",model=""}} 1.0' in lines
    assert f'{metrics.GATEWAY_IN_FLIGHT}{{model="m"}} 0.0' in lines
    assert f'{metrics.GATEWAY_HELD}{{model="m"}} 0.0' in lines
    assert f'{metrics.GATEWAY_ENDPOINTS}{{model="m",state="ready"}} 2.0' in lines
    assert f'{metrics.GATEWAY_FIRST_BYTE}_count{{model="m"}} 3.0' in lines
    assert f'{metrics.GATEWAY_RETRIES}{{model="m"}} 1.0' in lines
