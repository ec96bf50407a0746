"""The two listeners below the official client: paths, methods, errors, ids, probes, metrics, hang-ups, what the log says."""

import json
import re
import threading
import time

import pytest

from octavo_api import metrics as names

PROMPT = {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}
ENDLESS = {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}


def error(response) -> dict[str, str]:
    assert response.headers["content-type"] == "application/json"
    found = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code", "request_id"}
    assert found["request_id"] == response.headers["x-request-id"]
    return found


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/completions", "/v1/models/", "/metrics", "/drain", "/docs", "/openapi.json"])
def test_404_has_openais_shape_and_names_the_paths(replica, path):
    response = replica.api.get(path)
    assert response.status_code == 404
    assert error(response)["type"] == "invalid_request_error"


def test_405_names_the_methods(replica):
    response = replica.api.get("/v1/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "takes POST, not GET" in error(response)["message"]
    assert replica.internal.get("/drain").status_code == 405
    assert not replica.load["draining"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": "smollm2", "prompt": "a"', b'"' * 100])
def test_a_body_that_is_no_request_is_a_400(replica, body):
    response = replica.api.post("/v1/completions", content=body)
    assert response.status_code == 400
    error(response)


def test_a_body_may_come_in_pieces_under_any_type(replica):
    whole = json.dumps(PROMPT).encode()
    response = replica.api.post("/v1/completions", content=(whole[i : i + 7] for i in range(0, len(whole), 7)), headers={"content-type": "text/plain"})
    assert response.status_code == 200


def test_request_ids_are_taken_over_or_made(replica):
    given = replica.api.post("/v1/completions", json=PROMPT, headers={"x-request-id": "mine-1"})
    assert (given.headers["x-request-id"], given.json()["id"]) == ("mine-1", "cmpl-mine-1")
    made = replica.api.post("/v1/completions", json=PROMPT, headers={"x-request-id": "b{a}d id"})
    assert re.fullmatch("[0-9a-f]{32}", made.headers["x-request-id"])
    twice = [replica.api.post("/v1/completions", json=PROMPT, headers={"x-request-id": "same"}).json()["choices"][0]["text"] for _ in range(2)]
    assert twice[0] == twice[1]


def test_head_is_answered_like_get(replica):
    for listener, path in ((replica.api, "/v1/models"), (replica.api, "/health"), (replica.internal, "/live")):
        response = listener.head(path)
        assert (response.status_code, response.content) == (200, b"")


def test_probes_and_progress_of_a_ready_replica(replica):
    for listener in (replica.api, replica.internal):
        assert listener.get("/health").json()["status"] == "ok"
    assert replica.api.get("/ping").status_code == 200
    assert set(replica.api.get("/version").json()) == {"version"}
    assert replica.internal.get("/live").status_code == 200
    assert replica.internal.get("/progress").json()["stage"] == "ready"
    load = replica.load
    assert load["kv_blocks_total"] > 100
    assert (load["running"], load["waiting"], load["draining"]) == (0, 0, False)


def test_metrics_count_what_was_done(replica):
    before = {name: replica.metric(name) for name in (names.PROMPT_TOKENS, names.GENERATION_TOKENS, names.ENGINE_STEPS)}
    finished = replica.metric(names.REQUESTS_FINISHED, finish_reason="length")
    usage = replica.api.post("/v1/completions", json={**PROMPT, "ignore_eos": True}).json()["usage"]
    assert replica.metric(names.PROMPT_TOKENS) - before[names.PROMPT_TOKENS] == usage["prompt_tokens"]
    assert replica.metric(names.GENERATION_TOKENS) - before[names.GENERATION_TOKENS] == 4
    assert replica.metric(names.ENGINE_STEPS) > before[names.ENGINE_STEPS]
    assert replica.metric(names.REQUESTS_FINISHED, finish_reason="length", model_name="smollm2") == finished + 1
    for histogram in (names.TIME_TO_FIRST_TOKEN, names.TIME_PER_OUTPUT_TOKEN, names.REQUEST_LATENCY):
        assert replica.metric(histogram + "_count") >= 1
    for gauge in (names.KV_BLOCKS_USED, names.KV_SLOTS_WASTED, names.REQUESTS_RUNNING, names.REQUESTS_WAITING):
        assert replica.metric(gauge) == 0
    text = replica.internal.get("/metrics").text
    assert [info for info in names.ENGINE if f"# HELP {info.name} {info.help}\n# TYPE {info.name} {info.kind}\n" not in text] == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_hang_up_frees_the_blocks_at_once(replica, stream):
    aborted = replica.metric(names.REQUESTS_FINISHED, finish_reason="abort")
    with replica.client() as client:
        if stream:
            with client.completions.create(model="smollm2", prompt="a", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}) as answer:
                next(iter(answer))
                assert replica.metric(names.KV_BLOCKS_USED) > 0
        else:
            asking = threading.Thread(target=lambda: _give_up(replica))
            asking.start()
            while not replica.metric(names.KV_BLOCKS_USED):
                time.sleep(0.01)
            asking.join()
    left = time.monotonic()
    while replica.metric(names.KV_BLOCKS_USED):
        assert time.monotonic() - left < 2
    assert replica.metric(names.REQUESTS_RUNNING) == 0
    assert replica.metric(names.REQUESTS_FINISHED, finish_reason="abort") == aborted + 1


def _give_up(replica) -> None:
    import httpx

    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{replica.url}/v1/completions", json=ENDLESS, timeout=1.0, trust_env=False)


def test_a_long_prompt_holds_nobody_up(replica):
    """While a prompt of megabytes is tokenised, other requests are answered."""
    slowest = 0.0
    reading = threading.Thread(target=lambda: replica.api.post("/v1/completions", json={**PROMPT, "prompt": "some words and more " * 200_000}))
    reading.start()
    while reading.is_alive():
        begun = time.monotonic()
        replica.internal.get("/live")
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 1.0


def test_the_log_has_figures_and_no_text(replica):
    secret = "xyzzy-plugh"
    replica.api.post(
        "/v1/completions", json={**PROMPT, "prompt": f"The word is {secret}"}, headers={"x-request-id": "logged-1", "authorization": "Bearer s3cret"}
    )
    replica.api.post("/v1/completions", json={**PROMPT, "prompt": secret, "nothing": 1}, headers={"x-request-id": "logged-2"})
    deadline = time.monotonic() + 5
    while "logged-2" not in (log := replica.log.read_text()):  # the line is written when the response is out
        assert time.monotonic() < deadline
    assert re.search(
        r"logged-1 POST /v1/completions 200 model=smollm2 prompt_tokens=\d+ cached_tokens=\d+ output_tokens=4 ttft=\d\.\d{3}s finish=length duration=\d", log
    )
    assert re.search(r"logged-2 POST /v1/completions 400 duration=", log)
    assert secret not in log
    assert "s3cret" not in log
