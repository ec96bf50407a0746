"""From a request body to what the engine is asked: sampling parameters, token ids, one output stream a choice."""

import time
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from octavo.async_llm import AsyncLLMEngine
from octavo.sampling_params import SamplingParams
from octavo.server.errors import Refusal
from octavo.server.generation import Form, Generation, Outputs
from octavo.server.messages import check_messages
from octavo.server.record import Record
from octavo.server.request_types import MAX_CHOICES, ChatRequest, CompletionRequest, GenerationRequest
from octavo.server.service import Service
from octavo.server.wire import Kind, Wire
from octavo_api.errors import InvalidSetting

COMPLETION_TOKENS = 16
"""Most tokens of a completion that does not say; a chat gets the rest of the context."""

_SAMPLING = tuple(set(SamplingParams.__struct_fields__) - {"max_tokens", "stop", "stop_token_ids", "detokenize"})


class Work(Struct, frozen=True, kw_only=True):
    """A checked request. `answers` are as many sampling parameters as each prompt gets answers."""

    kind: Kind
    prompts: list[list[int]]
    answers: list[SamplingParams]
    priority: int
    cache_salt: str


async def completion(request: CompletionRequest, engine: AsyncLLMEngine) -> Work:
    """
    Raises:
        InvalidSetting: naming the field.
    """
    prompts = list_prompts(request.prompt)
    sampling = sampling_params(request, engine.text.defaults, COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens)
    special = request.add_special_tokens is not False
    ids = [prompt if isinstance(prompt, list) else await engine.text.encode(prompt, add_special_tokens=special) for prompt in prompts]
    return _work("completion", request, ids, sampling)


async def chat(request: ChatRequest, engine: AsyncLLMEngine) -> Work:
    """
    Raises:
        InvalidSetting: naming the field.
    """
    asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    sampling = sampling_params(request, engine.text.defaults, asked)
    template = {"add_generation_prompt": request.add_generation_prompt, "continue_final_message": request.continue_final_message}
    given = {**{key: value for key, value in template.items() if value is not None}, **(request.chat_template_kwargs or {})}
    ids = await engine.text.encode_chat(check_messages(request.messages), given, add_special_tokens=bool(request.add_special_tokens))
    return _work("chat", request, [ids], sampling)


def list_prompts(prompt: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The prompts of a completion request, one or several, text or token ids."""
    if isinstance(prompt, str):
        return [prompt]
    ids = [item for item in prompt if isinstance(item, int)]
    if ids and len(ids) == len(prompt):
        return [ids]
    prompts = [item for item in prompt if not isinstance(item, int)]
    if ids or not prompts:
        raise InvalidSetting("prompt: " + ("mixes token ids with prompts" if ids else "is empty") + "; give text, token ids, or a list of either")
    return prompts


def sampling_params(request: GenerationRequest, defaults: SamplingParams, max_tokens: int | None) -> SamplingParams:
    """The model's defaults with what the request says.

    Raises:
        InvalidSetting: naming the field.
    """
    given = {name: value for name in _SAMPLING if (value := getattr(request, name)) is not None}
    stop = request.stop or ()
    return msgspec.structs.replace(
        defaults,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=tuple(request.stop_token_ids or ()),
        **given,
    )


def _work(kind: Kind, request: GenerationRequest, prompts: list[list[int]], sampling: SamplingParams) -> Work:
    answers = [sampling]
    for index in range(1, request.choices):
        answers.append(sampling if sampling.seed is None else msgspec.structs.replace(sampling, seed=sampling.seed + index))
    return Work(kind=kind, prompts=prompts, answers=answers, priority=request.priority or 0, cache_salt=request.cache_salt or "")


def begin(service: Service, record: Record, request: GenerationRequest, work: Work, *, token_ids: bool) -> Generation:
    """The response; nothing has been sent to the engine before it is called.

    Raises:
        Refusal: a prompt, or the answer that is asked for, is too long.
        InvalidSetting: a prompt is empty or not of this vocabulary.
    """
    engine = service.engine
    _check_room(work, request, engine.max_model_len)
    outputs: list[Outputs] = [
        engine.generate(prompt, sampling, record.request_id, priority=work.priority, cache_salt=work.cache_salt)
        for prompt in work.prompts
        for sampling in work.answers
    ]
    record.model = service.names[0]
    record.choices = len(outputs)
    record.prompt_tokens = sum(map(len, work.prompts))
    prefix = "chatcmpl" if work.kind == "chat" else "cmpl"
    wire = Wire(work.kind, f"{prefix}-{record.request_id}", int(time.time()), record.model, include_usage=request.include_usage)
    form = Form(stream=bool(request.stream), include_usage=request.include_usage, token_ids=token_ids)
    return Generation(service, record, outputs, wire, form)


def _check_room(work: Work, request: GenerationRequest, context: int) -> None:
    """An answer that was asked for in a length that does not fit is refused, rather than cut short in silence."""
    longest = max(map(len, work.prompts))
    numbers = f"prompt has {longest} tokens, the context is {context}"
    if longest >= context:
        raise Refusal.no_room(f"{numbers} and must hold an answer too; shorten the prompt", "messages" if work.kind == "chat" else "prompt")
    asked = work.answers[0].max_tokens
    if asked is not None and longest + asked > context:
        param = "max_tokens" if getattr(request, "max_completion_tokens", None) is None else "max_completion_tokens"
        raise Refusal.no_room(f"{numbers}, so there is room for {context - longest} more and not for the {asked} of {param}", param)


def count_choices(request: GenerationRequest, prompts: Sequence[object]) -> int:
    """How many answers are asked for.

    Raises:
        InvalidSetting: more than one request may ask for.
    """
    count = request.choices * len(prompts)
    if count > MAX_CHOICES:
        raise InvalidSetting(f"n: {request.choices} for each of {len(prompts)} prompts is {count} answers, must be at most {MAX_CHOICES} in one request")
    return count
