"""From start to end of a server: listeners before the model, drain by signal and by POST, the engine's death, failures to load."""

import json
import signal
import threading
import time

import httpx
import openai
import pytest

ENDLESS = {"prompt": "Once upon a time", "extra_body": {"ignore_eos": True}}


def ended(replica, seconds: float = 30.0) -> int:
    return replica.process.wait(seconds)


def test_both_listeners_answer_while_the_model_loads_and_requests_are_put_off(serve, smollm2):
    replica = serve(smollm2, "--served-model-name", "m")
    early = replica.api.post("/v1/completions", json={"model": "m", "prompt": "a"})
    assert early.status_code == 503
    assert int(early.headers["retry-after"]) > 0
    assert "the model is not loaded yet: " in early.json()["error"]["message"]
    assert replica.api.get("/v1/models").status_code == 503
    assert (replica.internal.get("/health").status_code, replica.internal.get("/live").status_code) == (503, 200)
    stages = set()
    while replica.internal.get("/health").status_code == 503:
        stages.add(replica.internal.get("/progress").json()["stage"])
        time.sleep(0.02)
        assert replica.internal.get("/live").status_code == 200
    assert "loading" in stages
    assert replica.api.post("/v1/completions", json={"model": "m", "prompt": "a"}).status_code == 200
    replica.stop()


@pytest.fixture(scope="module")
def drained(serve, tiny):
    return serve(*tiny).wait_ready()


def test_sigterm_finishes_what_is_open_and_refuses_the_rest(drained):
    texts = []

    def stream():
        with drained.client() as client:
            texts.append([chunk.choices[0] for chunk in client.completions.create(model="m", max_tokens=600, stream=True, **ENDLESS)])

    streaming = threading.Thread(target=stream)
    streaming.start()
    while not drained.load["running"]:
        time.sleep(0.02)
    drained.process.send_signal(signal.SIGTERM)
    while drained.internal.get("/health").json()["status"] != "draining":
        time.sleep(0.02)
    assert drained.load == {**drained.load, "draining": True, "running": 1}
    assert drained.internal.get("/live").status_code == 200
    assert drained.internal.get("/progress").json()["stage"] == "draining"
    refused = drained.api.post("/v1/completions", json={"model": "m", "prompt": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "replica_draining")
    assert ended(drained) == 0
    streaming.join()
    assert texts[0][-1].finish_reason == "length"
    assert drained.process.children() == [] if drained.process.is_running() else True


def test_drain_by_post_then_a_timeout_ends_what_is_left(serve, tiny):
    replica = serve(*tiny, "--drain-timeout", "0.5").wait_ready()
    with replica.client() as client:
        stream = client.completions.create(model="m", max_tokens=4000, stream=True, **ENDLESS)
        next(iter(stream))
        answer = replica.internal.post("/drain")
        assert (answer.status_code, answer.json()["draining"], answer.json()["running"]) == (200, True, 1)
        assert replica.api.post("/v1/completions", json={"model": "m", "prompt": "a"}).status_code == 503
        begun = time.monotonic()
        replica.process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        assert ended(replica) == 0
        assert time.monotonic() - begun < 10


def test_a_second_signal_ends_it_at_once(serve, tiny):
    replica = serve(*tiny).wait_ready()
    engine = replica.engine
    with replica.client() as client:
        stream = client.completions.create(model="m", max_tokens=4000, stream=True, **ENDLESS)
        next(iter(stream))
        replica.process.send_signal(signal.SIGTERM)
        while replica.internal.get("/health").json()["status"] != "draining":
            time.sleep(0.02)
        begun = time.monotonic()
        replica.process.send_signal(signal.SIGTERM)
        assert ended(replica) == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 2
    engine.wait(10)


def test_the_engine_is_killed_in_mid_stream(serve, tiny):
    """Open requests end with an error at once, health fails, the process ends with 1 and says why."""
    replica = serve(*tiny).wait_ready()
    outcome = {}

    def whole():
        outcome["whole"] = httpx.post(
            f"{replica.url}/v1/completions", json={"model": "m", "prompt": "a", "max_tokens": 4000, "ignore_eos": True}, timeout=60, trust_env=False
        )

    asking = threading.Thread(target=whole)
    asking.start()
    with replica.client() as client:
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Tell a long tale."}], stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        while replica.load["running"] < 2:
            time.sleep(0.02)
        replica.engine.send_signal(signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(openai.APIError, match="engine process was ended by SIGKILL") as died:
            list(stream)
        assert time.monotonic() - begun < 1
        assert not isinstance(died.value, openai.APIConnectionError)
        asking.join()
    assert (outcome["whole"].status_code, outcome["whole"].json()["error"]["type"]) == (500, "server_error")
    assert replica.internal.get("/health").json()["status"] == "dead"
    assert replica.internal.get("/live").status_code == 503
    assert replica.internal.get("/progress").json()["reason"] == "EngineKilled"
    refused = replica.api.post("/v1/completions", json={"model": "m", "prompt": "a"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "replica_dead")
    assert ended(replica, 10) == 1
    assert replica.log.read_text().splitlines()[-1].startswith("octavo serve: EngineKilled: the engine process was ended by SIGKILL")


@pytest.mark.parametrize(
    ("files", "words", "status", "reason"),
    [
        ({}, [], 1, "ModelNotFound"),
        ({"config.json": json.dumps({"architectures": ["NobodyKnowsThis"], "model_type": "nobody"})}, ["--load-format", "dummy"], 1, ""),
    ],
)
def test_a_model_that_cannot_be_loaded(serve, tmp_path, files, words, status, reason):
    """Progress says `failed` and why for a moment, then the last line says the same and the process ends."""
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    model = tmp_path if files else tmp_path / "nowhere"
    replica = serve(model, *words)
    while (progress := replica.internal.get("/progress").json())["stage"] != "failed":
        time.sleep(0.02)
    assert reason in progress["reason"]
    assert ended(replica) == status
    assert replica.log.read_text().splitlines()[-1] == f"octavo serve: {progress['reason']}: {progress['message']}"


def test_a_context_that_the_model_does_not_allow_is_the_callers_mistake(serve, tiny):
    replica = serve(*tiny, "--max-model-len", "1000000")
    assert ended(replica) == 2
    assert "InvalidSetting: max_model_len: is 1000000, but the model allows" in replica.log.read_text().splitlines()[-1]
