"""The official client against a real server with a real model: chats and completions, whole and streamed."""

import asyncio
import json
import re

import openai
import pytest

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
GREEDY = {"temperature": 0, "max_tokens": 24}


def test_a_chat(client):
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, **GREEDY)
    (choice,) = answer.choices
    assert "Paris" in choice.message.content
    assert (answer.object, answer.model, choice.message.role, choice.finish_reason) == ("chat.completion", "smollm2", "assistant", "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens > 10


def test_a_streamed_chat_is_the_same_chat(client):
    whole = client.chat.completions.create(model="smollm2", messages=QUESTION, **GREEDY)
    chunks = list(client.chat.completions.create(model="smollm2", messages=QUESTION, stream=True, stream_options={"include_usage": True}, **GREEDY))
    *middle, usage = chunks
    assert middle[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in middle] == [None] * (len(middle) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in middle)
    assert (usage.choices, usage.usage.completion_tokens) == ([], whole.usage.completion_tokens)
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1


def test_a_completion_and_its_stream(client):
    asked = {"model": "small", "prompt": "The sky is", "temperature": 0}
    whole = client.completions.create(**asked)
    assert (whole.object, whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("text_completion", "length", 16)
    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_several_prompts_and_choices_in_one_request(client):
    """Choice p * n + i is answer i to prompt p. A seed gives each answer its own, so the request can be repeated."""
    asked = {
        "model": "smollm2",
        "prompt": ["One, two,", [12, 13, 14]],
        "n": 2,
        "seed": 7,
        "max_tokens": 8,
        "temperature": 1.5,
        "extra_body": {"ignore_eos": True},
    }
    whole = client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in whole.choices}) == 4
    assert whole.usage.completion_tokens == 32
    streamed = ["", "", "", ""]
    ends = {}
    for chunk in client.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
        ends[chunk.choices[0].index] = chunk.choices[0].finish_reason
    assert streamed == [choice.text for choice in whole.choices]
    assert ends == dict.fromkeys(range(4), "length")


def test_without_a_seed_answers_differ(client):
    answers = client.completions.create(model="smollm2", prompt="Once upon a time", n=4, temperature=1.5, max_tokens=12)
    assert len({choice.text for choice in answers.choices}) > 1


def test_text_and_its_token_ids_are_the_same_prompt(replica, client):
    text = client.completions.create(model="smollm2", prompt="Hello there", temperature=0)
    assert text.usage.prompt_tokens >= 2


@pytest.mark.parametrize("include", [False, True])
def test_stop_strings(client, include):
    asked = {"model": "smollm2", "prompt": "Count: 1, 2, 3, 4,", "temperature": 0, "max_tokens": 40, "stop": ["7,", "\n"]}
    whole = client.completions.create(**asked, extra_body={"include_stop_str_in_output": include})
    assert whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].text.endswith("7,") == include
    assert whole.choices[0].stop_reason == "7,"
    streamed = "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True, extra_body={"include_stop_str_in_output": include}))
    assert streamed == whole.choices[0].text


def test_a_chat_without_max_tokens_gets_the_rest_of_the_context_and_a_completion_16(replica, client):
    context = client.models.retrieve("smollm2").max_model_len
    assert context >= 2048
    chat = client.chat.completions.create(model="smollm2", messages=QUESTION, stream=True, extra_body={"ignore_eos": True, "temperature": 0})
    with chat:
        for seen, _ in enumerate(chat):
            if seen > 40:
                break
    replica.wait_idle()
    assert client.completions.create(model="smollm2", prompt="a", extra_body={"ignore_eos": True}).usage.completion_tokens == 16


def test_the_answers_prefix_is_continued(client):
    begun = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    answer = client.chat.completions.create(
        model="smollm2", messages=begun, extra_body={"continue_final_message": True, "add_generation_prompt": False}, **GREEDY
    )
    assert answer.choices[0].message.content.lstrip().startswith("Paris")


def test_a_second_prompt_that_begins_alike_is_read_from_the_cache(client):
    prompt = "A long tale: " + "the fox jumps over the dog, " * 20
    first = client.completions.create(model="smollm2", prompt=prompt, extra_body={"cache_salt": "alike"})
    second = client.completions.create(model="smollm2", prompt=prompt, extra_body={"cache_salt": "alike"})
    other = client.completions.create(model="smollm2", prompt=prompt, extra_body={"cache_salt": "another"})
    cached = [answer.usage.prompt_tokens_details.cached_tokens for answer in (first, second, other)]
    assert cached[0] == cached[2] == 0
    assert cached[1] >= 64


async def test_more_streams_at_once_than_can_run_are_all_answered(replica):
    """32 streams on 8 rows: each gets its own answer, whole, whatever the others do; a third of them hang up half way."""

    async def stream(client: openai.AsyncOpenAI, number: int) -> str:
        asked = {"model": "smollm2", "prompt": f"Number {number % 4} is", "max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}}
        text = ""
        async with await client.completions.create(**asked, stream=True) as chunks:
            async for chunk in chunks:
                text += chunk.choices[0].text
                if number % 3 == 0:
                    return ""
        assert chunk.choices[0].finish_reason == "length"
        return text

    async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        texts = await asyncio.gather(*(stream(client, number) for number in range(32)))
    assert [bool(text) for text in texts] == [number % 3 != 0 for number in range(32)]
    replica.wait_idle()


def test_models(client):
    assert [model.id for model in client.models.list()] == ["smollm2", "small"]
    assert client.models.retrieve("small").root == "smollm2"


def test_an_unknown_model_is_told_which_there_are(client):
    with pytest.raises(openai.NotFoundError, match=r"there is no model 'gpt-5'; there is smollm2, small") as refused:
        client.completions.create(model="gpt-5", prompt="a")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_prompt_too_long_is_told_the_numbers(client):
    context = client.models.retrieve("smollm2").max_model_len
    with pytest.raises(openai.BadRequestError, match=rf"prompt has {context + 5} tokens, the context is {context}") as refused:
        client.completions.create(model="smollm2", prompt=[5] * (context + 5))
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(
        openai.BadRequestError,
        match=rf"prompt has 10 tokens, the context is {context}, so there is room for {context - 10} more and not for the {context} of max_tokens",
    ) as refused:
        client.completions.create(model="smollm2", prompt=[5] * 10, max_tokens=context)
    assert refused.value.param == "max_tokens"
    with pytest.raises(openai.BadRequestError, match="not for the 999999 of max_completion_tokens") as refused:
        client.chat.completions.create(model="smollm2", messages=QUESTION, max_completion_tokens=999_999)
    assert refused.value.param == "max_completion_tokens"
    with pytest.raises(openai.BadRequestError, match=r"prompt has \d+ tokens, the context is") as refused:
        client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": "word " * (context + 100)}])
    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"extra_body": {"tempratur": 1}}, "tempratur"),
        ({"temperature": -1}, "temperature"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]}, "messages[0].content[0]"),
    ],
)
def test_what_is_not_there_is_refused_by_name(client, more, param):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "smollm2", "messages": QUESTION, **more})
    assert refused.value.param == param


def test_token_ids_in_comments_for_who_asks(replica):
    """The lines that a gateway keeps and strips: together they are the whole answer's tokens."""
    body = {"model": "smollm2", "prompt": "The sky is", "stream": True, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    streams = [replica.api.post("/v1/completions", json=body, headers={"x-octavo-token-ids": wanted}).text for wanted in ("0", "1")]
    plain, commented = ([line for line in stream.splitlines() if line] for stream in streams)
    assert all(line.startswith("data: ") for line in plain)
    comments = [index for index, line in enumerate(commented) if line.startswith(": t ")]
    ids = [int(word) for index in comments for word in commented[index].removeprefix(": t ").split(",")]
    assert len(ids) == 12
    assert all(commented[index + 1].startswith("data: {") for index in comments)
    text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in commented if line.startswith("data: {"))
    again = replica.api.post("/v1/completions", json={**body, "stream": False}).json()
    assert text == again["choices"][0]["text"]
    assert re.fullmatch(r"cmpl-[0-9a-f]{32}", again["id"])
