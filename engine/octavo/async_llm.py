"""One model for asyncio programs, the server first: text in, text deltas out, the engine in a process of its own.

Here requests are checked, tokenised and detokenised, stop strings end them, and the engine's life is watched. HTTP is
left to `octavo.server`, every decision about tokens and blocks to the engine process.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator

from octavo.answers import Answer
from octavo.core.client import UNIPROC, EngineClient
from octavo.core.heartbeat import Heartbeat
from octavo.core.messages import Abort, EngineFailed, EngineReady, EngineRequest, EngineStats, FromEngine, LoadProgress, StepUpdates
from octavo.in_thread import in_thread
from octavo.loader.sources import resolve
from octavo.model_text import ModelText, TextOptions
from octavo.outputs import RequestOutput
from octavo.sampling_params import SamplingParams
from octavo_api.errors import InvalidSetting, ModelUnavailable, OctavoError
from octavo_api.replica import Health, Progress
from octavo_api.settings import EngineSettings
from octavo_api.source import ModelSource, parse_source

STALL_SECONDS = 60.0

_log = logging.getLogger(__name__)


class AsyncLLMEngine:
    """Made by `start`; use it from the loop that started it.

    Attributes:
        settings: what it was started with.
        progress: how far loading is.
        stats: the engine after its latest step.
        failed: done when the engine has failed or died; its result says why.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.progress = Progress(stage="starting")
        self.stats = EngineStats()
        loop = asyncio.get_running_loop()
        self.failed: asyncio.Future[str] = loop.create_future()
        self._engine_ready: asyncio.Future[EngineReady] = loop.create_future()
        self._ready: EngineReady | None = None
        self._settled = asyncio.Event()
        self._client: EngineClient | None = None
        self._loading: asyncio.Task[None] | None = None
        self._heartbeat = Heartbeat()
        self._answers: dict[str, Answer] = {}
        self._serial = itertools.count()
        self._text: ModelText | None = None

    @classmethod
    async def start(cls, model: str, settings: EngineSettings, text: TextOptions | None = None, *, executor: str = UNIPROC) -> "AsyncLLMEngine":
        """Begins to fetch and load a model and returns; `wait_ready` tells when it is done.

        Args:
            model: a model source, as `octavo_api.source` reads it.
            settings: the engine's settings.
            text: where its text is not to be read and written its own way.
            executor: `module:Class` of what computes the steps.

        Raises:
            InvalidSetting: the source is not one.
        """
        engine = cls(settings)
        engine._loading = asyncio.create_task(engine._load(parse_source(model), text or TextOptions(), executor))
        return engine

    async def wait_ready(self) -> None:
        """Returns when requests are taken.

        Raises:
            ModelUnavailable: loading has failed; with the reason.
        """
        await self._settled.wait()
        if self.failed.done():
            raise ModelUnavailable(self.progress.reason, self.failed.result())

    @property
    def is_ready(self) -> bool:
        return self._ready is not None and not self.failed.done()

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._facts().max_model_len

    @property
    def text(self) -> ModelText:
        """How text is read and written. Raises OctavoError while the model is loading."""
        if self._text is None:
            raise OctavoError("the model is still loading")
        return self._text

    @property
    def num_open(self) -> int:
        """Requests begun and not finished."""
        return len(self._answers)

    def health(self, stall_timeout: float = STALL_SECONDS) -> Health:
        """How the engine is; `stall_timeout` in seconds. Draining is for the server to know."""
        if self.failed.done():
            return Health(status="dead", steps=self.stats.steps, message=self.failed.result())
        waits = self._ready is None or bool(self._answers)
        if waits and self._heartbeat.stalled(stall_timeout):
            what = f"{len(self._answers)} requests wait" if self._ready else f"{self.progress.stage} does not get on"
            return Health(status="stalled", steps=self.stats.steps, message=f"{what}, nothing has come from the engine for too long")
        return Health(status="ok" if self._ready else "loading", steps=self.stats.steps)

    def generate(
        self, prompt: str | list[int], sampling: SamplingParams, request_id: str, *, priority: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answers one prompt.

        The request begins with the first read. Each output holds what is new since the one before, the last one has
        `finished`; if the engine fails, that one has the finish reason `error` and says why. Closing the iterator
        aborts the request. Lower `priority` runs first; requests with different `cache_salt` share no cache.

        Raises:
            InvalidSetting: the prompt is empty, too long or not of this vocabulary, or parameters do not go together.
            OctavoError: the model is still loading.
        """
        facts, text = self._facts(), self.text
        ids = text.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        self._check(ids, sampling, facts)
        serial = next(self._serial)
        request = EngineRequest(
            request_id=f"{request_id}#{serial}",
            prompt_token_ids=ids,
            sampling=sampling,
            eos_token_ids=text.eos_token_ids,
            priority=priority,
            arrival=time.time(),
            cache_salt=cache_salt,
        )
        answer = Answer(request_id, prompt if isinstance(prompt, str) else None, ids, text.detokenizer(ids, sampling))
        return self._answer(request, answer)

    async def shutdown(self) -> None:
        """Ends the engine process; open requests end with an error."""
        self._fail("Shutdown", "the engine is shutting down")
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait([self._loading])
        if self._client is not None:
            await self._client.shutdown()

    async def _load(self, source: ModelSource, options: TextOptions, executor: str) -> None:
        try:
            path = await in_thread(lambda: resolve(source, self._downloaded))
            self.progress = Progress(stage="loading")
            self._client = EngineClient(path, self.settings, self._on_message, executor)
            self._text = await in_thread(lambda: ModelText(path, options, neutral=self.settings.generation_config == "vllm"))
        except OctavoError as error:
            self._fail(error.reason if isinstance(error, ModelUnavailable) else "InvalidSetting", str(error))
            return
        except Exception as error:
            _log.exception("loading failed")
            self._fail("LoadingFailed", f"{type(error).__name__}: {error}")
            return
        self._ready = await self._engine_ready
        self._heartbeat = Heartbeat()
        self.progress = Progress(stage="ready")
        self._settled.set()

    def _downloaded(self, done: int, total: int) -> None:
        self.progress = Progress(stage="downloading", done=done, total=total)
        self._heartbeat.beat()

    def _facts(self) -> EngineReady:
        if self._ready is None:
            raise OctavoError("the model is still loading")
        return self._ready

    def _check(self, ids: list[int], sampling: SamplingParams, facts: EngineReady) -> None:
        if not ids:
            raise InvalidSetting("prompt: is empty, must have at least one token")
        if len(ids) >= facts.max_model_len:
            raise InvalidSetting(f"prompt: has {len(ids)} tokens, the context is {facts.max_model_len} and must hold an answer too; shorten it")
        if min(ids) < 0 or max(ids) >= facts.vocab_size:
            raise InvalidSetting(f"prompt: has token ids outside of 0 … {facts.vocab_size - 1}, the model's vocabulary")
        if sampling.stop_token_ids and not 0 <= min(sampling.stop_token_ids) <= max(sampling.stop_token_ids) < facts.vocab_size:
            raise InvalidSetting(f"stop_token_ids: has ids outside of 0 … {facts.vocab_size - 1}, the model's vocabulary")
        if sampling.stop and not (self.text.has_tokenizer and sampling.detokenize):
            raise InvalidSetting("stop: needs text to look for, so a tokenizer and detokenize; use stop_token_ids")

    async def _answer(self, request: EngineRequest, answer: Answer) -> AsyncGenerator[RequestOutput, None]:
        if self.failed.done() or self._client is None:
            answer.fail(self.failed.result() if self.failed.done() else "the engine is not running")
            yield await answer.read()
            return
        if not self._answers:
            self._heartbeat.begin()
        self._answers[request.request_id] = answer
        try:
            self._client.send(request)
            finished = False
            while not finished:
                output = await answer.read()
                finished = output.finished
                yield output
        finally:
            self._close(request.request_id)

    def _close(self, engine_id: str) -> None:
        """Forgets a request; the engine, if it goes on with it, stops."""
        if self._answers.pop(engine_id, None) is not None and self._client is not None:
            self._client.send(Abort(request_ids=[engine_id]))

    def _on_message(self, message: FromEngine) -> None:
        self._heartbeat.beat()
        if isinstance(message, StepUpdates):
            self.stats = message.stats
            for update in message.updates:
                answer = self._answers.get(update.request_id)
                if answer is None:
                    continue
                answer.write(update)
                if update.finish_reason is not None:
                    del self._answers[update.request_id]
                elif answer.finished:
                    self._close(update.request_id)
        elif isinstance(message, LoadProgress):
            self.progress = Progress(stage=message.stage, done=message.done, total=message.total)
        elif isinstance(message, EngineReady):
            self._engine_ready.set_result(message)
        elif isinstance(message, EngineFailed):
            self._fail(message.reason, message.message)

    def _fail(self, reason: str, message: str) -> None:
        if self.failed.done():
            return
        self.failed.set_result(message)
        self.progress = Progress(stage="failed", message=message, reason=reason)
        self._settled.set()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer.fail(message)
