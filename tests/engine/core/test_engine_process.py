"""The engine process from outside: its messages, its end by any cause, its parent's end."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from octavo.core.client import EngineClient
from octavo.core.messages import Abort, EngineFailed, EngineReady, FromEngine, LoadProgress, StepUpdates
from octavo_api.settings import EngineSettings

EXECUTOR = "toy_model:ToyExecutor"


class Talk:
    """An engine client that keeps what it hears."""

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        self.heard: list[FromEngine] = []
        self.news = asyncio.Event()
        self.client = EngineClient(folder, settings, self.hear, EXECUTOR)

    def hear(self, message: FromEngine) -> None:
        self.heard.append(message)
        self.news.set()

    async def until(self, condition, seconds: float = 20.0):
        """The first message that the condition holds for."""
        async with asyncio.timeout(seconds):
            while not (found := [message for message in self.heard if condition(message)]):
                self.news.clear()
                await self.news.wait()
        return found[0]

    async def ready(self) -> EngineReady:
        return await self.until(lambda message: isinstance(message, EngineReady))

    async def failed(self, seconds: float = 20.0) -> EngineFailed:
        return await self.until(lambda message: isinstance(message, EngineFailed), seconds)

    def updates(self, request_id: str):
        steps = [message for message in self.heard if isinstance(message, StepUpdates)]
        return [update for step in steps for update in step.updates if update.request_id == request_id]

    async def finished(self, request_id: str):
        await self.until(lambda message: isinstance(message, StepUpdates) and any(u.request_id == request_id and u.finish_reason for u in message.updates))
        return self.updates(request_id)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts an engine process on the toy model with these faults; it is ended after the test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    talks: list[Talk] = []

    def run(settings: EngineSettings | None = None, **faults) -> Talk:
        (tmp_path / "toy.json").write_text(json.dumps(faults))
        talks.append(Talk(tmp_path, settings or EngineSettings()))
        return talks[-1]

    yield run
    for talk in talks:
        talk.client.process.kill()
        talk.client.process.wait()
        talk.client._close()


async def test_from_loading_to_shutdown(start, make_request, continuation):
    talk = start()
    ready = await talk.ready()
    assert [message.stage for message in talk.heard if isinstance(message, LoadProgress)] == ["loading", "loading", "warming"]
    assert ready.max_model_len == 1024
    assert ready.kv_blocks > 64
    for request in (make_request(40, max_tokens=8), make_request(5, max_tokens=20), make_request(2000)):
        talk.client.send(request)
    for request_id, prompt, count in (("r0", 40, 8), ("r1", 5, 20)):
        updates = await talk.finished(request_id)
        assert [token for update in updates for token in update.new_token_ids] == continuation(list(range(prompt)), count)
    (refused,) = await talk.finished("r2")
    assert refused.finish_reason == "error"
    assert "2000" in refused.error
    folder = talk.client._folder
    assert folder.stat().st_mode & 0o777 == 0o700
    await talk.client.shutdown()
    assert talk.client.process.returncode == 0
    assert not folder.exists()


async def test_abort_frees_the_blocks_within_a_step(start, make_request):
    talk = start(step_time=0.01)
    await talk.ready()
    talk.client.send(make_request(90, max_tokens=None))
    await talk.until(lambda message: isinstance(message, StepUpdates) and message.updates)
    talk.client.send(Abort(request_ids=["r0"]))
    updates = await talk.finished("r0")
    assert updates[-1].finish_reason == "abort"
    last = next(message for message in talk.heard if isinstance(message, StepUpdates) and updates[-1] in message.updates)
    assert last.stats.running == last.stats.kv_blocks_used == 0


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "EngineKilled"), (signal.SIGSEGV, "EngineKilled")])
async def test_death_by_signal_is_noticed_at_once(start, make_request, number, reason):
    talk = start(step_time=0.01)
    await talk.ready()
    talk.client.send(make_request(10, max_tokens=None))
    await talk.until(lambda message: isinstance(message, StepUpdates))
    begun = time.monotonic()
    talk.client.process.send_signal(number)
    failed = await talk.failed()
    assert time.monotonic() - begun < 1.0
    assert failed.reason == reason
    assert number.name in failed.message


async def test_interrupt_and_terminate_leave_the_engine_alone(start, make_request):
    talk = start()
    await talk.ready()
    talk.client.process.send_signal(signal.SIGINT)
    talk.client.process.send_signal(signal.SIGTERM)
    talk.client.send(make_request(10, max_tokens=3))
    await talk.finished("r0")


async def test_a_failing_step_says_why_and_ends_the_process(start, make_request, continuation, capfd):
    talk = start(crash_on=continuation(list(range(10)), 4)[3])
    await talk.ready()
    talk.client.send(make_request(10, max_tokens=None))
    failed = await talk.failed()
    assert failed == EngineFailed(reason="EngineCrashed", message="RuntimeError: the toy breaks as asked")
    assert talk.client.process.wait(5) == 1
    assert "Traceback" in capfd.readouterr().err


async def test_a_failed_load_gives_its_reason_without_a_traceback(start, capfd):
    talk = start(refuse="there is no such model")
    assert await talk.failed() == EngineFailed(reason="ModelInvalid", message="there is no such model")
    assert "Traceback" not in capfd.readouterr().err


async def test_a_cache_too_small_names_the_numbers(start):
    talk = start(EngineSettings(kv_cache_memory_bytes=65_536, max_model_len=1024))
    failed = await talk.failed()
    assert failed.reason == "KVCacheDoesNotFit"
    assert "1024 tokens" in failed.message


async def test_shutdown_while_loading_does_not_wait(start):
    talk = start(load_time=60.0)
    await talk.until(lambda message: isinstance(message, LoadProgress))
    begun = time.monotonic()
    await talk.client.shutdown()
    assert time.monotonic() - begun < 2.0


def test_the_engine_leaves_with_its_parent(tmp_path):
    (tmp_path / "toy.json").write_text(json.dumps({"step_time": 60.0}))
    parent = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from octavo.core.client import EngineClient
        from octavo.core.messages import EngineReady, EngineRequest
        from octavo.sampling_params import SamplingParams
        from octavo_api.settings import EngineSettings

        async def main():
            ready = asyncio.Event()
            hear = lambda message: isinstance(message, EngineReady) and ready.set()
            client = EngineClient(Path(sys.argv[1]), EngineSettings(), hear, "toy_model:ToyExecutor")
            await ready.wait()
            client.send(EngineRequest(request_id="r", prompt_token_ids=[1], sampling=SamplingParams()))
            print(client.process.pid, client._folder, flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
    """)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", parent, str(tmp_path)], stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        engine = psutil.Process(int(pid))
        process.kill()
        engine.wait(5)
    assert not Path(folder).exists()
