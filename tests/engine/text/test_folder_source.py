"""Model folders as transformers writes them, and as people leave them."""

import json
from pathlib import Path

import pytest
import tokenizers
import transformers
from corpora import WIDE
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from octavo.text.tokenizer import Tokenizer
from octavo_api.errors import InvalidSetting, ModelUnavailable

HI = [{"role": "user", "content": "Hi"}]
CORPUS = WIDE * 3


@pytest.fixture(scope="module")
def learned() -> str:
    """A byte-level tokenizer.json: `<s>`, `</s>` and `<|eot_id|>` are special, `<think>` is added; `<s>` goes before a text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<|eot_id|>"]
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special, show_progress=False))
    backend.add_tokens(["<think>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return backend.to_str()


@pytest.fixture
def folder(tmp_path: Path, learned: str) -> Path:
    """A folder with the tokenizer.json and a config that names its special tokens."""
    (tmp_path / "tokenizer.json").write_text(learned)
    write(tmp_path / "tokenizer_config.json", bos_token="<s>", eos_token={"content": "</s>", "__type": "AddedToken"})
    return tmp_path


def write(path: Path, **content) -> None:
    path.write_text(json.dumps(content))


def test_a_folder_that_transformers_writes(tmp_path, learned):
    backend = tokenizers.Tokenizer.from_str(learned)
    written = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template="{{ bos_token }}hi"
    )
    written.save_pretrained(tmp_path)
    ours, theirs = Tokenizer.from_path(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*WIDE, "<s>a<pad>b</s> <think>c<|eot_id|>"]:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        assert ours.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.vocab_size == len(theirs)
    assert ours.special_tokens == theirs.special_tokens_map
    assert ours.apply_chat_template(HI) == "<s>hi"


def test_a_tokenizer_json_by_its_own_path(folder):
    assert Tokenizer.from_path(folder / "tokenizer.json").eos_token == "</s>"


def test_a_tokenizer_json_alone(folder):
    (folder / "tokenizer_config.json").unlink()
    tokenizer = Tokenizer.from_path(folder)
    assert (tokenizer.eos_token, tokenizer.has_chat_template) == (None, False)
    assert tokenizer.decode(tokenizer.encode("naïve 😀")) == "naïve 😀"


def test_a_folder_with_a_gguf_file(make_gguf):
    keys = {"model": "gpt2", "tokens": ["a", "b", "ab"], "merges": ["a b"]}
    path = make_gguf("llama", {f"tokenizer.ggml.{key}": value for key, value in keys.items()}, {})
    assert Tokenizer.from_path(path.parent).encode("ab") == [2]


def test_an_answer_ends_at_eos_and_at_the_end_of_a_turn(folder):
    assert Tokenizer.from_path(folder).eos_token_ids == (1, 2)


def test_special_tokens_are_left_out_of_text_and_added_ones_are_not(folder):
    tokenizer = Tokenizer.from_path(folder)
    ids = tokenizer.encode("<think>a<|eot_id|>")
    assert tokenizer.decode(ids) == "<think>a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s><think>a<|eot_id|>"


@pytest.mark.parametrize(
    ("told", "before", "after"),
    [
        ({}, True, False),
        ({"add_bos_token": False}, False, False),
        ({"add_eos_token": True}, True, True),
        ({"add_bos_token": True, "add_eos_token": False}, True, False),
    ],
    ids=str,
)
def test_the_config_says_what_goes_before_and_after_a_text(told, before, after, folder):
    write(folder / "tokenizer_config.json", bos_token="<s>", eos_token="</s>", **told)
    tokenizer = Tokenizer.from_path(folder)
    bare = tokenizer.encode("a", add_special_tokens=False)
    assert tokenizer.encode("a") == [0] * before + bare + [1] * after


def test_tokens_that_only_the_other_files_know(folder):
    size = Tokenizer.from_path(folder).vocab_size
    write(folder / "added_tokens.json", **{"<x>": size})
    special = {"content": "<y>", "special": True, "normalized": False}
    write(folder / "tokenizer_config.json", added_tokens_decoder={str(size + 1): special}, additional_special_tokens=["<z>"])
    write(folder / "special_tokens_map.json", eos_token="</s>")
    tokenizer = Tokenizer.from_path(folder)
    assert tokenizer.encode("<x><y><z>", add_special_tokens=False) == [size, size + 1, size + 2]
    assert tokenizer.decode([size, size + 1, size + 2]) == "<x>"
    assert tokenizer.eos_token == "</s>"


def test_truncation_and_padding_are_for_training(folder):
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.from_path(folder)
    assert tokenizer.decode(tokenizer.encode("one two three four five")) == "one two three four five"


def test_the_chat_template_in_a_file_of_its_own_prevails(folder):
    write(folder / "chat_template.json", chat_template="oldest")
    assert Tokenizer.from_path(folder).apply_chat_template(HI) == "oldest"
    config = [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "with tools"}]
    write(folder / "tokenizer_config.json", chat_template=config)
    assert Tokenizer.from_path(folder).apply_chat_template(HI) == "old"
    assert Tokenizer.from_path(folder).apply_chat_template(HI, tools=[{}]) == "with tools"
    (folder / "chat_template.jinja").write_text("new")
    assert Tokenizer.from_path(folder).apply_chat_template(HI) == "new"
    assert Tokenizer.from_path(folder, chat_template="given {{ messages[0].content }}").apply_chat_template(HI) == "given Hi"


def test_without_a_chat_template(folder):
    tokenizer = Tokenizer.from_path(folder)
    assert not tokenizer.has_chat_template
    with pytest.raises(InvalidSetting, match=r"no chat template; give --chat-template a file, or use /v1/completions"):
        tokenizer.apply_chat_template(HI)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("tokenizer.json", "{}", "tokenizer.json: not a usable tokenizer"),
        ("tokenizer.json", "not JSON", "tokenizer.json: not a usable tokenizer"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: not JSON"),
        ("special_tokens_map.json", "[]", "special_tokens_map.json: must be a JSON object"),
        ("added_tokens.json", '{"<think>": 7}', "the token '<think>' has the id"),
        ("chat_template.jinja", "{% for %}", "chat template 'default', line 1"),
    ],
)
def test_a_broken_file_is_named(file, content, says, folder):
    (folder / file).write_text(content)
    with pytest.raises(ModelUnavailable) as raised:
        Tokenizer.from_path(folder)
    assert raised.value.reason == "ModelInvalid"
    assert says in str(raised.value)


def test_a_decoder_of_another_kind_is_named(folder):
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.decoder = decoders.WordPiece()
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelUnavailable, match="WordPiece"):
        Tokenizer.from_path(folder)


def test_no_tokenizer(tmp_path):
    for path, says in ((tmp_path, "has no tokenizer.json; give --tokenizer"), (tmp_path / "gone", "there is no such tokenizer")):
        with pytest.raises(ModelUnavailable, match=says) as raised:
            Tokenizer.from_path(path)
        assert raised.value.reason == "TokenizerNotFound"
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(ModelUnavailable, match=r"has tokenizer.model, which Octavo does not read"):
        Tokenizer.from_path(tmp_path)
