"""`LLM` for plain programs: lists in, lists out, in their order, each prompt with an answer or an error of its own."""

import os

import psutil
import pytest
import tiny_model

from octavo import LLM, SamplingParams
from octavo_api.errors import InvalidSetting, ModelUnavailable, OctavoError

LITTLE = {"kv_cache_memory_bytes": 32 << 20, "cpu_threads": 1}


@pytest.fixture(scope="module")
def llm(tmp_path_factory, smollm2):
    folder = tiny_model.write(tmp_path_factory.mktemp("model"), {"temperature": 0.5, "top_k": 30, "eos_token_id": [2]})
    with LLM(str(folder), tokenizer=str(smollm2), load_format="dummy", max_model_len=256, **LITTLE) as found:
        yield found


@pytest.fixture
def greedy():
    return SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def test_a_prompt_that_cannot_be_answered_has_an_error_of_its_own(llm, greedy):
    outputs = llm.generate(["One", [5] * 300, {"prompt_token_ids": [1, 2, 3]}, [49152], {"text": "x"}, "Two"], greedy, use_tqdm=False)
    assert [output.outputs[0].finish_reason for output in outputs] == ["length", "error", "length", "error", "error", "length"]
    assert all(output.finished for output in outputs)
    assert "prompt: has 300 tokens, the context is 256" in outputs[1].error
    assert "outside of 0 … 49151" in outputs[3].error
    assert "must have prompt or prompt_token_ids" in outputs[4].error
    assert [output.prompt for output in outputs] == ["One", None, None, None, None, "Two"]
    assert outputs[2].prompt_token_ids == [1, 2, 3]
    assert all(len(outputs[index].outputs[0].token_ids) == 8 for index in (0, 2, 5))


def test_text_and_ids_agree(llm, greedy):
    (output,) = llm.generate("Once upon a time", greedy, use_tqdm=False)
    ids = output.outputs[0].token_ids
    tokenizer = llm.get_tokenizer()
    assert output.prompt_token_ids == tokenizer.encode("Once upon a time")
    assert output.outputs[0].text == tokenizer.decode(output.prompt_token_ids + ids).removeprefix("Once upon a time")
    (again,) = llm.generate([output.prompt_token_ids], greedy, use_tqdm=False)
    assert again.outputs[0].token_ids == ids


def test_parameters_for_all_or_one_each(llm):
    each = [SamplingParams(temperature=0, max_tokens=count, ignore_eos=True) for count in (1, 2, 3)]
    outputs = llm.generate(["a", "b", "c"], each, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [1, 2, 3]
    with pytest.raises(InvalidSetting, match="there are 3 for 2 prompts"):
        llm.generate(["a", "b"], each)


def test_many_prompts_at_once_keep_their_order(llm, greedy):
    prompts = [[index + 10] for index in range(200)]
    outputs = llm.generate(prompts, greedy, use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == prompts
    assert outputs[7].outputs[0].token_ids == llm.generate([prompts[7]], greedy, use_tqdm=False)[0].outputs[0].token_ids


def test_without_parameters_the_models_own_count(llm):
    defaults = llm.get_default_sampling_params()
    assert (defaults.temperature, defaults.top_k, defaults.max_tokens) == (0.5, 30, 16)
    defaults.temperature = 9.0
    assert llm.get_default_sampling_params().temperature == 0.5


def test_chats_one_and_several(llm, greedy):
    chat = [{"role": "user", "content": "Hello"}]
    (one,) = llm.chat(chat, greedy, use_tqdm=False)
    both = llm.chat([chat, [*chat, {"role": "assistant", "content": "Hi"}, chat[0]]], greedy, use_tqdm=False)
    assert one.outputs == both[0].outputs
    assert len(both[1].prompt_token_ids) > len(both[0].prompt_token_ids)
    (begun,) = llm.chat([*chat, {"role": "assistant", "content": "Hi"}], greedy, use_tqdm=False, add_generation_prompt=False, continue_final_message=True)
    assert llm.get_tokenizer().decode(begun.prompt_token_ids).endswith("Hi")


def test_a_progress_bar_is_shown_on_demand(llm, greedy, capsys):
    llm.generate(["a", "b"], greedy)
    assert "Prompts" in capsys.readouterr().out


def test_nothing_is_left_after_shutdown(tmp_path, smollm2):
    llm = LLM(str(tiny_model.write(tmp_path)), skip_tokenizer_init=True, load_format="dummy", **LITTLE)
    (engine,) = [child for child in psutil.Process(os.getpid()).children() if str(tmp_path) in child.cmdline()]
    (output,) = llm.generate([1, 2, 3], SamplingParams(temperature=0, max_tokens=4, ignore_eos=True), use_tqdm=False)
    assert (output.outputs[0].text, len(output.outputs[0].token_ids)) == ("", 4)
    with pytest.raises(OctavoError, match="no tokenizer: skip_tokenizer_init"):
        llm.get_tokenizer()
    assert "skip_tokenizer_init" in llm.generate(["text"], use_tqdm=False)[0].error
    llm.shutdown()
    llm.shutdown()
    assert not engine.is_running()
    with pytest.raises(OctavoError, match="has been shut down"):
        llm.generate("a")


def test_a_model_that_is_not_there_is_an_error_with_a_reason(tmp_path):
    before = psutil.Process().num_threads()
    with pytest.raises(ModelUnavailable) as failed:
        LLM(str(tmp_path / "nowhere"), **LITTLE)
    assert failed.value.reason == "ModelNotFound"
    assert psutil.Process().num_threads() <= before + 1
