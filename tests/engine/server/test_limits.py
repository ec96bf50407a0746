"""A server with narrow limits and API keys: 401, 413, 429, and that neither keys nor names of files can be guessed at."""

import os
import threading
import time

import openai
import pytest


@pytest.fixture(scope="module")
def narrow(serve, tiny, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("first-key\n\n  second-key  \n")
    words = ["--api-key-file", str(keys), "--max-body-bytes", "20000", "--max-num-seqs", "1", "--max-waiting-requests", "1", "--max-model-len", "512"]
    environment = {**os.environ, "OCTAVO_API_KEY": "third-key"}
    return serve(*tiny, *words, env=environment).wait_ready()


@pytest.mark.parametrize("key", ["first-key", "second-key", "third-key"])
def test_every_key_opens(narrow, key):
    with narrow.client(key) as client:
        assert [model.id for model in client.models.list()] == ["m"]


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer", "Basic first-key", "first-key", "Bearer first-ke"])
def test_401_without_a_key(narrow, given):
    headers = {} if given is None else {"authorization": given}
    for response in (
        narrow.api.get("/v1/models", headers=headers),
        narrow.api.post("/v1/completions", headers=headers),
        narrow.api.get("/nowhere", headers=headers),
    ):
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        assert response.json()["error"]["type"] == "authentication_error"
    for path in ("/health", "/ping", "/version"):
        assert narrow.api.get(path, headers=headers).status_code == 200
    assert narrow.internal.get("/metrics").status_code == 200


def test_keys_are_not_in_the_log(narrow):
    assert not any(key in narrow.log.read_text() for key in ("first-key", "second-key", "third-key", "first-ke"))


@pytest.mark.parametrize("chunked", [False, True])
def test_413_for_a_large_body(narrow, chunked):
    body = b'{"model": "m", "prompt": "' + b"a" * 30_000 + b'"}'
    content = (body[i : i + 1000] for i in range(0, len(body), 1000)) if chunked else body
    response = narrow.api.post("/v1/completions", content=content, headers={"authorization": "Bearer first-key"})
    assert response.status_code == 413
    assert "the most is 20000 bytes" in response.json()["error"]["message"]
    assert narrow.api.get("/health").status_code == 200


def test_the_context_is_as_narrow_as_asked(narrow):
    with narrow.client("first-key") as client, pytest.raises(openai.BadRequestError, match="prompt has 600 tokens, the context is 512"):
        client.completions.create(model="m", prompt=[7] * 600)


def test_429_when_too_many_wait_and_every_other_one_is_answered(narrow):
    """One runs, one waits, the third is told to come back; the two get their answers."""
    answers = []

    def ask():
        with narrow.client("first-key") as client:
            answers.append(client.completions.create(model="m", prompt="a", max_tokens=400, extra_body={"ignore_eos": True}).usage.completion_tokens)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for one in asking:
        one.start()
    while narrow.load["running"] + narrow.load["waiting"] < 2:
        time.sleep(0.01)
    assert (narrow.load["running"], narrow.load["waiting"]) == (1, 1)
    with narrow.client("first-key") as client, pytest.raises(openai.RateLimitError, match="1 requests are waiting") as refused:
        client.completions.create(model="m", prompt="a")
    assert int(refused.value.response.headers["retry-after"]) > 0
    for one in asking:
        one.join()
    assert answers == [400, 400]
