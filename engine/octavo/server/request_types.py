"""The two request bodies: every field that OpenAI's clients know, and vLLM's that change how tokens are chosen.

Fields fall into three: honoured ones have a type here; ACCEPTED ones cannot change the answer and may be anything;
REFUSED ones would change it and are not there yet, so that only their neutral values pass. Any other field is an
error, because a misspelt one would change the answer in silence.
"""

import difflib
import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from octavo.server.errors import Refusal
from octavo_api.errors import InvalidSetting

ACCEPTED = frozenset(
    (
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    )
)
"""Bookkeeping, hints on speed and caching, and what matters only beside a refused field."""

_TOOLS = "tools are not supported yet"
_LOGPROBS = "log probabilities are not supported yet"
_GRAMMAR = "structured output is not supported yet"
_AUDIO = "models answer with text only"

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "allowed_token_ids": (([],), "is not supported yet"),
    "audio": ((), _AUDIO),
    "bad_words": (([],), "is not supported yet"),
    "echo": ((False,), "is not supported yet: the prompt is not given back"),
    "function_call": (("none", "auto"), _TOOLS),
    "functions": (([],), _TOOLS),
    "guided_choice": (([],), _GRAMMAR),
    "guided_grammar": (("",), _GRAMMAR),
    "guided_json": ((), _GRAMMAR),
    "guided_regex": (("",), _GRAMMAR),
    "length_penalty": ((1, 1.0), "beam search is not supported"),
    "logit_bias": (({},), "is not supported yet"),
    "logprobs": ((False,), _LOGPROBS),
    "modalities": ((["text"], []), _AUDIO),
    "moderation": ((), "there is none, so nothing would be scored or blocked"),
    "prompt_logprobs": ((False,), _LOGPROBS),
    "reasoning_effort": ((), "is not supported; where the model's chat template has such a switch, use chat_template_kwargs"),
    "response_format": (({"type": "text"},), _GRAMMAR),
    "structured_outputs": (({},), _GRAMMAR),
    "suffix": (("",), "is not supported: the model only goes on from a prompt"),
    "tool_choice": (("none", "auto"), _TOOLS),
    "tools": (([],), _TOOLS),
    "top_logprobs": ((0,), _LOGPROBS),
    "truncate_prompt_tokens": ((), "is not supported: shorten the prompt"),
    "use_beam_search": ((False,), "beam search is not supported"),
    "verbosity": (("medium",), "is not supported: say in the prompt how long the answer should be"),
    "web_search_options": ((), "there is no web search"),
}
"""Field → values that ask for nothing, beside null, and why others are refused."""

MAX_N = 128
MAX_CHOICES = 2048
"""Most answers to one prompt, and in one request."""

Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What can be passed on to the engine."""

R = TypeVar("R", bound="GenerationRequest")


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What both bodies have in common. None is what a client gets that leaves the field out."""

    model: str
    frequency_penalty: float | None = None
    max_tokens: Integer | None = None
    n: Integer | None = None
    presence_penalty: float | None = None
    seed: Integer | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None

    add_special_tokens: bool | None = None
    cache_salt: str | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    min_p: float | None = None
    min_tokens: Integer | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    repetition_penalty: float | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: list[Integer] | None = None
    top_k: Integer | None = None

    allowed_token_ids: Any = None
    bad_words: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    length_penalty: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    prompt_logprobs: Any = None
    response_format: Any = None
    structured_outputs: Any = None
    truncate_prompt_tokens: Any = None
    use_beam_search: Any = None
    user: Any = None

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class CompletionRequest(GenerationRequest):
    """`prompt` is text, token ids, or a list of either."""

    prompt: str | list[str | Integer | list[Integer]]
    best_of: Integer | None = None
    echo: Any = None
    suffix: Any = None


class ChatRequest(GenerationRequest):
    """`messages` are checked by `octavo.server.messages`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Integer | None = None

    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None

    audio: Any = None
    function_call: Any = None
    functions: Any = None
    metadata: Any = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    verbosity: Any = None
    web_search_options: Any = None


_decoders: dict[type, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(kind) for kind in (CompletionRequest, ChatRequest)}
_WHERE = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")


def decode(kind: type[R], body: bytes) -> R:
    """Reads and checks a body.

    Raises:
        Refusal: 400, naming the field.
    """
    try:
        request: R = _decoders[kind].decode(body)
    except msgspec.ValidationError as error:
        raise _misfit(kind, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(400, f"the request's body is not JSON: {error}", code="invalid_json") from error
    _check(request)
    return request


def _misfit(kind: type[GenerationRequest], message: str) -> Refusal:
    """The decoder's complaint in terms of the field."""
    where = _WHERE.search(message)
    path = where["path"] if where else ""
    what = _WHERE.sub("", message)
    if unknown := _UNKNOWN.fullmatch(what):
        name = f"{path}.{unknown['name']}" if path else unknown["name"]
        near = difflib.get_close_matches(unknown["name"], StreamOptions.__struct_fields__ if path else kind.__struct_fields__, n=1)
        hint = f"did you mean {near[0]}?" if near else "leave it out"
        return Refusal(400, f"{name[:200]}: there is no such field; {hint}", code="unknown_field", param=name[:200])
    if missing := _MISSING.fullmatch(what):
        return Refusal(400, f"{missing['name']}: is missing", code="missing_field", param=missing["name"])
    return Refusal(400, f"{path or 'the body'}: {what[0].lower()}{what[1:]}", code="invalid_type", param=path or None)


def _check(request: GenerationRequest) -> None:
    """Refuses what would change the answer and is not there, and what contradicts itself."""
    for name, (neutral, reason) in REFUSED.items():
        value = getattr(request, name, None)
        if value is not None and not any(type(value) is type(one) and value == one for one in neutral):
            raise Refusal(400, f"{name}: {reason}", code="unsupported_field", param=name)
    if not 1 <= request.choices <= MAX_N:
        raise InvalidSetting(f"n: is {request.n}, must be from 1 to {MAX_N}")
    best_of = getattr(request, "best_of", None)
    if best_of is not None and best_of != request.choices:
        raise Refusal(400, f"best_of: is {best_of}; picking the best answers is not supported, leave it out", code="unsupported_field", param="best_of")
    if request.stream_options is not None and not request.stream:
        raise InvalidSetting("stream_options: is only for streams; set stream to true or leave it out")
