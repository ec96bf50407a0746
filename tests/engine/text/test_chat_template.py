"""Conversations become the text that transformers makes of them; what cannot be rendered is the client's error, by name."""

import time

import pytest
from templates import CHATML, CONVERSATIONS, SHAPES, WEATHER
from transformers.utils.chat_template_utils import render_jinja_template

from octavo.loader.gguf_file import GgufFile
from octavo.text.chat_template import ChatTemplate
from octavo.text.sandbox import Sandbox
from octavo_api.errors import InvalidSetting, ModelUnavailable

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
HI = [{"role": "user", "content": "Hi"}]


def template(source: str, **names: str) -> ChatTemplate:
    return ChatTemplate({"default": source, **names}, SPECIAL)


def by_transformers(source: str, messages: list[dict], **values) -> str:
    rendered, _ = render_jinja_template([messages], chat_template=source, **{**SPECIAL, **values})
    return rendered[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize(
    "values", [{}, {"add_generation_prompt": False}, {"enable_thinking": False}, {"tools": [WEATHER], "date_string": "1 May 2025"}], ids=str
)
def test_chats_are_rendered_as_by_transformers(shape, conversation, values):
    messages = CONVERSATIONS[conversation]
    expected = by_transformers(SHAPES[shape], messages, **{"add_generation_prompt": True, **values})
    assert template(SHAPES[shape]).render(messages, values) == expected


@pytest.mark.parametrize("shape", ["chatml", "llama 3", "gemma"])
@pytest.mark.parametrize("final", ["Two plus", "Two plus ", "  Two\n"])
def test_the_final_message_is_continued_as_by_transformers(shape, final):
    messages = [*HI, {"role": "assistant", "content": final}]
    expected = by_transformers(SHAPES[shape], messages, continue_final_message=True)
    assert template(SHAPES[shape]).render(messages, {"continue_final_message": True}) == expected
    assert expected.rstrip().endswith(final.strip())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2", "qwen2_coder"])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("values", [{}, {"add_generation_prompt": False}, {"tools": [WEATHER]}], ids=str)
def test_the_real_models_templates(model, conversation, values, real_tokenizer, request):
    source = GgufFile(request.getfixturevalue(model)).metadata["tokenizer.chat_template"]
    tokenizer, messages = real_tokenizer(model), CONVERSATIONS[conversation]
    expected = by_transformers(source, messages, **{**tokenizer.special_tokens, "add_generation_prompt": True, **values})
    assert tokenizer.apply_chat_template(messages, **values) == expected


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}, "three", {"type": "refusal", "refusal": "no"}]
    assert template(CHATML).render([{"role": "user", "content": parts}], {}) == template(CHATML).render(
        [{"role": "user", "content": "one\ntwo\nthree\nno"}], {}
    )


def test_the_arguments_of_calls_are_objects_for_the_template():
    """OpenAI's API has them as JSON in a string, which templates would quote once more."""
    source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}"
    for arguments, expected in (('{"city": "Ulm"}', '{"city": "Ulm"}'), ({"city": "Ulm"}, '{"city": "Ulm"}'), ("", "{}"), ("not JSON", '"not JSON"')):
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        assert template(source).render([{"role": "assistant", "content": None, "tool_calls": [call]}], {}) == expected


def test_a_template_of_its_own_for_chats_with_tools():
    several = template("plain", tool_use="with {{ tools | length }} tools")
    assert several.render(HI, {}) == "plain"
    assert several.render(HI, {"tools": []}) == "plain"
    assert several.render(HI, {"tools": [WEATHER]}) == "with 1 tools"


def test_the_conversation_is_not_changed():
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": None}]
    template(CHATML).render(messages, {"continue_final_message": True})
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": None}]


@pytest.mark.parametrize(
    ("messages", "values", "says"),
    [
        ([], {}, "messages: is empty"),
        (["Hi"], {}, "messages[0]: must be an object with a role"),
        ([{"content": "Hi"}], {}, "messages[0]: must be an object with a role"),
        ([*HI, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], {}, "messages[1].content[0]: is a part of type 'image_url'"),
        ([{"role": "user", "content": [7]}], {}, "messages[0].content[0]: is a part of type 'int'"),
        ([{"role": "user"}], {}, "cannot render them"),
        (HI, {"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message: goes on"),
        ([{"role": "assistant", "tool_calls": []}], {"continue_final_message": True}, "has no content to continue"),
        (HI, {"chat_template": "x"}, "chat_template: cannot be set"),
        (HI, {"messages": []}, "messages: cannot be set"),
    ],
)
def test_what_cannot_be_rendered_is_named(messages, values, says):
    with pytest.raises(InvalidSetting) as raised:
        template(CHATML).render(messages, values)
    assert says in str(raised.value)


def test_a_templates_own_refusal_is_passed_on():
    with pytest.raises(InvalidSetting, match=r"refuses them: Conversation roles must alternate user/assistant/"):
        template(SHAPES["gemma"]).render([*HI, *HI], {})


def test_a_final_message_that_the_template_drops_cannot_be_continued():
    with pytest.raises(InvalidSetting, match="leaves out or changes the last message"):
        template("{{ messages[0].role }}").render(HI, {"continue_final_message": True})


def test_a_broken_template_is_found_when_it_is_loaded():
    with pytest.raises(ModelUnavailable, match=r"line 2: .*--chat-template") as raised:
        template("{% for m in messages %}\n{% endif %}")
    assert raised.value.reason == "ModelInvalid"


RUNAWAYS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "recursion": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "recursive loop": "{% for n in [60] recursive %}{% if n %}{{ loop([n - 1, n - 1]) }}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("source", RUNAWAYS.values(), ids=RUNAWAYS)
def test_a_template_that_does_not_end_is_ended(source):
    running_away = ChatTemplate({"default": source}, {}, Sandbox(max_seconds=0.2))
    begin = time.monotonic()
    with pytest.raises(InvalidSetting, match="does not come to an end"):
        running_away.render(HI, {})
    assert time.monotonic() - begin < 10


def test_a_template_that_writes_without_end_is_ended():
    with pytest.raises(InvalidSetting, match="writes more than 1000 characters"):
        ChatTemplate({"default": "{% for a in range(99999) %}xxxxxxxxxx{% endfor %}"}, {}, Sandbox(max_characters=1000)).render(HI, {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{% set ns = namespace(__class__=1) %}",
    ],
)
def test_templates_get_at_nothing_but_their_data(source):
    with pytest.raises(InvalidSetting, match=r"SecurityError|UndefinedError"):
        template(source).render(HI, {})
