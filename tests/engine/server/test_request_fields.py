"""Every field of OpenAI's request types is known: honoured, accepted because it cannot change the answer, or refused by name."""

import json
from typing import get_type_hints

import msgspec
import pytest
from openai.types import completion_create_params
from openai.types.chat import (
    ChatCompletionStreamOptionsParam,
    chat_completion_assistant_message_param,
    chat_completion_developer_message_param,
    chat_completion_function_message_param,
    chat_completion_system_message_param,
    chat_completion_tool_message_param,
    chat_completion_user_message_param,
)
from openai.types.chat import completion_create_params as chat_create_params

from octavo.sampling_params import SamplingParams
from octavo.server.errors import Refusal, refusal_of
from octavo.server.messages import check_messages
from octavo.server.prepare import count_choices, list_prompts, sampling_params
from octavo.server.request_types import ACCEPTED, REFUSED, ChatRequest, CompletionRequest, StreamOptions, decode
from octavo_api.errors import InvalidSetting

COMPLETION = {"model": "m", "prompt": "p"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

OPENAI = [
    (CompletionRequest, COMPLETION, completion_create_params.CompletionCreateParamsNonStreaming),
    (CompletionRequest, COMPLETION, completion_create_params.CompletionCreateParamsStreaming),
    (ChatRequest, CHAT, chat_create_params.CompletionCreateParamsNonStreaming),
    (ChatRequest, CHAT, chat_create_params.CompletionCreateParamsStreaming),
]

HONOURED = {
    "frequency_penalty": 0.5, "presence_penalty": -0.5, "max_tokens": 3, "max_completion_tokens": 4, "n": 2, "seed": 5, "stop": ["a", "b"],
    "temperature": 0.5, "top_p": 0.5, "stream": False,
    "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [1, 2], "ignore_eos": True, "min_tokens": 1, "skip_special_tokens": False,
    "include_stop_str_in_output": True, "priority": -1, "cache_salt": "s", "chat_template_kwargs": {"enable_thinking": False},
    "add_generation_prompt": False, "continue_final_message": False, "add_special_tokens": False,
}  # fmt: skip

UNLIKELY = {"anything": ["goes", 1]}
"""A value that no neutral one equals."""


def ask(kind, body, **more):
    return decode(kind, json.dumps({**body, **more}).encode())


def fields(struct) -> set[str]:
    return set(struct.__struct_fields__)


@pytest.mark.parametrize(("kind", "body", "openai"), OPENAI)
def test_every_field_of_openai_is_known(kind, body, openai):
    theirs = set(get_type_hints(openai))
    assert theirs - fields(kind) == set(), "fields of the installed openai package that nobody decided about"
    for name in theirs - set(body) - set(HONOURED) - {"stream_options", "best_of", "stream"}:
        assert (name in ACCEPTED) != (name in REFUSED), f"{name} is neither accepted nor refused, or both"


@pytest.mark.parametrize(("kind", "body"), [(CompletionRequest, COMPLETION), (ChatRequest, CHAT)])
def test_a_field_that_changes_nothing_may_be_anything(kind, body):
    for name in ACCEPTED & fields(kind):
        ask(kind, body, **{name: UNLIKELY})


@pytest.mark.parametrize(("kind", "body"), [(CompletionRequest, COMPLETION), (ChatRequest, CHAT)])
def test_a_field_that_would_change_the_answer_is_refused_by_name(kind, body):
    for name in set(REFUSED) & fields(kind):
        with pytest.raises(Refusal) as refused:
            ask(kind, body, **{name: UNLIKELY})
        assert (refused.value.status, refused.value.param, refused.value.code) == (400, name, "unsupported_field")
        assert refused.value.message.startswith(f"{name}: ")
        neutral, _ = REFUSED[name]
        for value in (None, *neutral):
            ask(kind, body, **{name: value})


@pytest.mark.parametrize(("name", "value"), [("logprobs", 0), ("logprobs", True), ("logprobs", 1), ("top_logprobs", 2), ("echo", True)])
def test_a_value_is_neutral_by_type_too(name, value):
    """`logprobs: 0` of a completion asks for log probabilities, though 0 == False."""
    with pytest.raises(Refusal):
        ask(ChatRequest if name == "top_logprobs" else CompletionRequest, CHAT if name == "top_logprobs" else COMPLETION, **{name: value})


def test_what_clients_send_by_themselves_is_neutral():
    ask(ChatRequest, CHAT, tools=[], logprobs=False, response_format={"type": "text"}, logit_bias={}, n=1, modalities=["text"], tool_choice="auto", stop=None)
    ask(CompletionRequest, COMPLETION, best_of=1, echo=False, suffix=None, logprobs=None)


@pytest.mark.parametrize(("kind", "body"), [(CompletionRequest, COMPLETION), (ChatRequest, CHAT)])
def test_honoured_fields_arrive(kind, body):
    given = {name: value for name, value in HONOURED.items() if name in fields(kind)}
    request = ask(kind, body, **given)
    assert {name: getattr(request, name) for name in given} == given
    sampling = sampling_params(request, SamplingParams(), 9)
    for name in set(SamplingParams.__struct_fields__) & set(given) - {"stop", "stop_token_ids", "max_tokens"}:
        assert getattr(sampling, name) == given[name]
    assert (sampling.stop, sampling.stop_token_ids, sampling.max_tokens) == (("a", "b"), (1, 2), 9)


def test_every_sampling_parameter_can_be_asked_for():
    assert set(SamplingParams.__struct_fields__) - fields(CompletionRequest) == {"detokenize"}


def test_the_models_defaults_count_where_the_request_is_silent():
    defaults = SamplingParams(temperature=0.6, top_p=0.9, top_k=20)
    found = sampling_params(ask(CompletionRequest, COMPLETION, top_p=0.5, temperature=None), defaults, 16)
    assert (found.temperature, found.top_p, found.top_k, found.max_tokens) == (0.6, 0.5, 20, 16)


def test_stream_options():
    assert fields(StreamOptions) == set(get_type_hints(ChatCompletionStreamOptionsParam))
    assert ask(ChatRequest, CHAT, stream=True, stream_options={"include_usage": True, "include_obfuscation": False}).include_usage
    with pytest.raises(InvalidSetting, match="stream_options: is only for streams"):
        ask(ChatRequest, CHAT, stream_options={"include_usage": True})


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"{", None, "the request's body is not JSON: "),
        (b"[]", None, "the body: expected `object`, got `array`"),
        (b'\xff{"model":1}', None, "the request's body is not JSON: "),
        (b'{"messages":[]}', "model", "model: is missing"),
        (b'{"model":"m"}', "messages", "messages: is missing"),
        (b'{"model":"m","messages":[],"temprature":1}', "temprature", "temprature: there is no such field; did you mean temperature?"),
        (b'{"model":"m","messages":[],"best_of":1}', "best_of", "best_of: there is no such field"),
        (b'{"model":"m","messages":[],"max_tokens":"9"}', "max_tokens", "max_tokens: expected `int | null`, got `str`"),
        (b'{"model":"m","messages":[],"stop":[1]}', "stop[0]", "stop[0]: expected `str`, got `int`"),
        (b'{"model":"m","messages":[],"stream":true,"stream_options":{"include_usag":true}}', "stream_options.include_usag", "did you mean include_usage?"),
    ],
)
def test_what_is_no_request_is_told_what_is_wrong(body, param, message):
    with pytest.raises(Refusal) as refused:
        decode(ChatRequest, body)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("more", "param"), [({"n": 0}, "n"), ({"n": 129}, "n"), ({"n": 2, "best_of": 3}, "best_of"), ({"top_p": 0}, "top_p"), ({"max_tokens": 0}, "max_tokens")]
)
def test_values_out_of_bounds_name_their_field(more, param):
    def read():
        request = ask(CompletionRequest, COMPLETION, **more)
        sampling_params(request, SamplingParams(), request.max_tokens)

    with pytest.raises((Refusal, InvalidSetting)) as refused:
        read()
    error = refused.value if isinstance(refused.value, Refusal) else refusal_of(refused.value)
    assert (error.status, error.param) == (400, param)
    told = msgspec.json.decode(error.body("id-1"))["error"]
    assert told["type"] == "invalid_request_error"
    assert (told["param"], told["request_id"]) == (param, "id-1")


@pytest.mark.parametrize(
    ("prompt", "prompts"), [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), (["a", [1]], ["a", [1]])]
)
def test_forms_of_a_prompt(prompt, prompts):
    assert list_prompts(ask(CompletionRequest, COMPLETION, prompt=prompt).prompt) == prompts


def test_answers_of_one_request_are_bounded():
    request = ask(CompletionRequest, COMPLETION, n=100)
    assert count_choices(request, ["p"] * 20) == 2000
    with pytest.raises(InvalidSetting, match="n: 100 for each of 21 prompts is 2100 answers, must be at most 2048"):
        count_choices(request, ["p"] * 21)


@pytest.mark.parametrize("prompt", [[], ["a", 1], [1, [2]]])
def test_what_is_no_prompt(prompt):
    with pytest.raises(InvalidSetting, match="prompt: "):
        list_prompts(ask(CompletionRequest, COMPLETION, prompt=prompt).prompt)


MESSAGES = {
    "assistant": chat_completion_assistant_message_param.ChatCompletionAssistantMessageParam,
    "developer": chat_completion_developer_message_param.ChatCompletionDeveloperMessageParam,
    "function": chat_completion_function_message_param.ChatCompletionFunctionMessageParam,
    "system": chat_completion_system_message_param.ChatCompletionSystemMessageParam,
    "tool": chat_completion_tool_message_param.ChatCompletionToolMessageParam,
    "user": chat_completion_user_message_param.ChatCompletionUserMessageParam,
}


@pytest.mark.parametrize("role", MESSAGES)
def test_every_field_of_a_message_is_known(role):
    for name in set(get_type_hints(MESSAGES[role])) - {"role", "content", "audio"}:
        (checked,) = check_messages([{"role": role, "content": "text", name: "value"}])
        assert checked[name] == "value"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"content": "x"}, r"messages\[0\].role: is None, must be one of system"),
        ({"role": "robot", "content": "x"}, r"messages\[0\].role: is 'robot'"),
        ({"role": "user"}, r"messages\[0\].content: is missing"),
        ({"role": "user", "content": 3}, r"messages\[0\].content: is of type int"),
        ({"role": "user", "content": "x", "contnt": "y"}, r"messages\[0\].contnt: there is no such field; did you mean content\?"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, r"messages\[0\].audio: models read and write text only"),
    ],
)
def test_what_is_no_message(message, told):
    with pytest.raises(InvalidSetting, match=told) as refused:
        check_messages([message])
    assert refusal_of(refused.value).param.startswith("messages[0].")
