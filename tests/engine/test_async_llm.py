"""`AsyncLLMEngine` on a toy model that can be told to fail: answers come in pieces, end once, and end with an error when the engine does."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from octavo import AsyncLLMEngine, SamplingParams
from octavo.model_text import TextOptions
from octavo_api.errors import InvalidSetting, ModelUnavailable, OctavoError
from octavo_api.settings import EngineSettings

sys.path.insert(0, str(Path(__file__).parent / "core"))
from toy_model import next_token

ENDLESS = SamplingParams(max_tokens=None, detokenize=False)


def continuation(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


@pytest.fixture
async def start(tmp_path, monkeypatch):
    """Starts an engine on the toy model with these faults; it is shut down after the test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "core"))
    engines = []

    async def run(*, ready: bool = True, **faults) -> AsyncLLMEngine:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "toy.json").write_text(json.dumps(faults))
        text = TextOptions(skip_tokenizer_init=True)
        engines.append(await AsyncLLMEngine.start(str(tmp_path), EngineSettings(), text, executor="toy_model:ToyExecutor"))
        if ready:
            await engines[-1].wait_ready()
        return engines[-1]

    yield run
    for engine in engines:
        await engine.shutdown()


async def read(outputs) -> tuple[list[int], object]:
    """All tokens and the last output."""
    ids, last = [], None
    async for last in outputs:
        ids += last.outputs[0].token_ids
    return ids, last


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)


async def test_many_answers_at_once_each_its_own(start):
    engine = await start()
    prompts = [[index, index + 1] for index in range(40)]
    answers = await asyncio.gather(*(read(engine.generate(prompt, SamplingParams(max_tokens=12), "same")) for prompt in prompts))
    assert [ids for ids, _ in answers] == [continuation(prompt, 12) for prompt in prompts]
    assert all(last.finished and last.request_id == "same" and last.outputs[0].finish_reason == "length" for _, last in answers)
    assert engine.num_open == 0


async def test_who_reads_slowly_gets_several_tokens_at_once(start):
    engine = await start()
    outputs = []
    async for output in engine.generate([1, 2], SamplingParams(max_tokens=50), "slow"):
        outputs.append(output)
        await asyncio.sleep(0.02)
    assert len(outputs) < 50
    assert [token for output in outputs for token in output.outputs[0].token_ids] == continuation([1, 2], 50)


async def test_an_answer_that_nobody_reads_on_is_aborted(start):
    engine = await start(step_time=0.005)
    outputs = engine.generate([1, 2], ENDLESS, "left")
    await anext(outputs)
    assert engine.num_open == 1
    await outputs.aclose()
    assert engine.num_open == 0
    await until(lambda: not engine.stats.kv_blocks_used)


async def test_an_answer_that_nobody_begins_to_read_is_never_asked_for(start):
    engine = await start()
    engine.generate([1, 2], ENDLESS, "never")
    await read(engine.generate([3], SamplingParams(max_tokens=1), "other"))
    assert (engine.num_open, engine.stats.prompt_tokens) == (0, 1)


async def test_what_cannot_be_answered_is_refused_before_it_begins(start):
    engine = await start()
    for prompt, sampling, told in (
        ([], ENDLESS, "prompt: is empty"),
        ([97], ENDLESS, "outside of 0 … 96"),
        ([1], SamplingParams(stop=("x",)), "stop: needs text"),
        ([1] * 1024, ENDLESS, "prompt: has 1024 tokens, the context is 1024"),
    ):
        with pytest.raises(InvalidSetting, match=told):
            engine.generate(prompt, sampling, "r")
    with pytest.raises(OctavoError, match="no tokenizer"):
        engine.generate("text", ENDLESS, "r")


async def test_an_engine_that_breaks_ends_every_answer_with_its_reason(start):
    engine = await start(crash_on=continuation([1, 2], 6)[-1], step_time=0.002)
    (ids, last), (_, other) = await asyncio.gather(read(engine.generate([1, 2], ENDLESS, "a")), read(engine.generate([5], ENDLESS, "b")))
    assert len(ids) <= 6
    for output in (last, other):
        assert (output.finished, output.outputs[0].finish_reason) == (True, "error")
        assert "the toy breaks as asked" in output.error
    assert (engine.progress.stage, engine.progress.reason) == ("failed", "EngineCrashed")
    assert engine.health().status == "dead"
    assert not engine.is_ready
    _, late = await read(engine.generate([1], ENDLESS, "late"))
    assert "the toy breaks as asked" in late.error


async def test_an_engine_that_hangs_is_stalled(start):
    engine = await start(hang_on=continuation([1, 2], 3)[-1])
    reading = asyncio.create_task(read(engine.generate([1, 2], ENDLESS, "a")))
    await until(lambda: engine.health(stall_timeout=0.3).status == "stalled")
    assert "1 requests wait" in engine.health(0.3).message
    reading.cancel()


async def test_a_model_that_does_not_load(start):
    engine = await start(ready=False, refuse="it is a toy")
    with pytest.raises(ModelUnavailable, match="it is a toy") as failed:
        await engine.wait_ready()
    assert failed.value.reason == "ModelInvalid"
    assert engine.failed.result() == "it is a toy"


async def test_while_it_loads(start):
    engine = await start(ready=False, load_time=0.3)
    assert engine.health().status == "loading"
    with pytest.raises(OctavoError, match="still loading"):
        engine.generate([1], ENDLESS, "early")
    await engine.wait_ready()
    assert (engine.health().status, engine.progress.stage, engine.max_model_len) == ("ok", "ready", 1024)


async def test_shutdown_ends_open_answers(start):
    engine = await start(step_time=0.005)
    reading = asyncio.create_task(read(engine.generate([1, 2], ENDLESS, "open")))
    await until(lambda: engine.stats.running)
    await engine.shutdown()
    _, last = await reading
    assert last.error == "the engine is shutting down"


async def test_shutdown_while_it_loads(start):
    engine = await start(ready=False, load_time=30)
    await until(lambda: engine.progress.stage == "loading")
    async with asyncio.timeout(5):
        await engine.shutdown()
    with pytest.raises(ModelUnavailable):
        await engine.wait_ready()


async def test_a_source_that_is_none(tmp_path):
    with pytest.raises(InvalidSetting, match="unknown scheme"):
        await AsyncLLMEngine.start("ftp://somewhere", EngineSettings())
