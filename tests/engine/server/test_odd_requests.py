"""Whatever a client sends, it is answered, and nothing it sends ends the engine that others are on."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.sampling_params import SamplingParams
from octavo.server.errors import Refusal
from octavo.server.messages import check_messages
from octavo.server.prepare import count_choices, list_prompts, sampling_params
from octavo.server.request_types import ChatRequest, CompletionRequest, decode
from octavo_api.errors import InvalidSetting

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)
messages = st.lists(st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", "refusal", "x"]), values, max_size=4), max_size=3)


def bodies(kind, required: dict[str, st.SearchStrategy]) -> st.SearchStrategy[dict[str, object]]:
    """Objects with the required fields, mostly right, and some others, mostly wrong."""
    others = st.dictionaries(st.sampled_from(kind.__struct_fields__) | st.text(max_size=6), values, max_size=4)
    return st.tuples(others, st.fixed_dictionaries(required)).map(lambda pair: {**pair[0], **pair[1]})


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies(CompletionRequest, {"model": st.just("m"), "prompt": values}) | bodies(ChatRequest, {"model": st.just("m"), "messages": messages}))
def test_a_body_is_read_or_refused(body):
    kind = ChatRequest if "messages" in body else CompletionRequest
    try:
        request = decode(kind, json.dumps(body).encode())
        if isinstance(request, ChatRequest):
            check_messages(request.messages)
        else:
            count_choices(request, list_prompts(request.prompt))
        sampling_params(request, SamplingParams(), 16)
    except (Refusal, InvalidSetting):
        return


@pytest.fixture(scope="module")
def odd(serve, tiny):
    return serve(*tiny, "--max-model-len", "128", "--max-num-seqs", "4").wait_ready()


def extreme(*usual: float) -> st.SearchStrategy[float]:
    return st.sampled_from(usual) | st.floats(min_value=0, max_value=100, allow_nan=False)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    body=st.fixed_dictionaries(
        {"prompt": st.text(max_size=30) | st.lists(st.integers(0, 49151), max_size=140)},
        optional={
            "temperature": extreme(0, 5e-324, 1e-30, 1e-5, 1, 100),
            "top_p": extreme(5e-324, 1e-12, 0.5, 1),
            "top_k": st.sampled_from([-1, 0, 1, 2, 49151, 49152, 2**31 - 1]),
            "min_p": extreme(0, 5e-324, 1),
            "repetition_penalty": extreme(5e-324, 0.01, 0.5, 2, 100),
            "presence_penalty": st.sampled_from([-2, 0, 2]),
            "frequency_penalty": st.sampled_from([-2, 0, 2]),
            "seed": st.integers(-(2**63), 2**63 - 1),
            "stop": st.lists(st.text(max_size=3), max_size=3),
            "stop_token_ids": st.lists(st.integers(-1, 49152), max_size=3),
            "min_tokens": st.integers(0, 6),
            "ignore_eos": st.booleans(),
            "priority": st.sampled_from([-(2**31), 0, 2**31 - 1]),
            "cache_salt": st.text(max_size=3),
            "skip_special_tokens": st.booleans(),
            "include_stop_str_in_output": st.booleans(),
            "n": st.integers(1, 3),
            "stream": st.booleans(),
        },
    )
)
def test_no_parameters_end_the_engine(odd, body):
    response = odd.api.post("/v1/completions", json={"model": "m", "max_tokens": 6, **body})
    assert response.status_code in (200, 400), response.text
    assert odd.process.is_running()
    if response.status_code == 200 and body.get("stream"):
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in response.text
    elif response.status_code == 200:
        choices = response.json()["choices"]
        assert len(choices) == body.get("n", 1)
        assert all(choice["finish_reason"] in ("stop", "length") for choice in choices)
