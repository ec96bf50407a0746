"""What users import, and nothing more; programs written for vLLM find the names and keywords that they use."""

import inspect
from importlib.metadata import version

import msgspec
import pytest

import octavo
from octavo_api.settings import EngineSettings


def test_exported_names_are_pinned():
    assert octavo.__all__ == ["LLM", "AsyncLLMEngine", "CompletionOutput", "RequestOutput", "SamplingParams", "__version__"]
    for name in octavo.__all__:
        assert getattr(octavo, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'LLMS'"):
        octavo.LLMS  # noqa: B018
    assert octavo.__version__ == version("octavo")


def test_keywords_are_vllms():
    assert list(inspect.signature(octavo.LLM.__init__).parameters) == ["self", "model", "tokenizer", "skip_tokenizer_init", "settings"]
    assert list(inspect.signature(octavo.LLM.generate).parameters) == ["self", "prompts", "sampling_params", "use_tqdm"]
    assert list(inspect.signature(octavo.LLM.chat).parameters) == ["self", "messages", "sampling_params", "use_tqdm", "template"]
    assert {field.name for field in msgspec.structs.fields(octavo.RequestOutput)} >= {"request_id", "prompt", "prompt_token_ids", "outputs", "finished"}
    assert {field.name for field in msgspec.structs.fields(octavo.CompletionOutput)} == {"index", "text", "token_ids", "finish_reason", "stop_reason"}


def test_settings_are_keywords_of_llm():
    with pytest.raises(octavo.llm.InvalidSetting, match=r"max_model_length: there is no such setting; did you mean max_model_len\?"):
        octavo.LLM("/nowhere", max_model_length=5)
    with pytest.raises(octavo.llm.InvalidSetting, match=r"max_num_seqs: is 0: "):
        octavo.LLM("/nowhere", max_num_seqs=0)
    given = {"max_model_len": 64, "dtype": "float32", "enable_prefix_caching": False}
    assert octavo.llm.settings_from_keywords(given) == EngineSettings(max_model_len=64, dtype="float32", enable_prefix_caching=False)
