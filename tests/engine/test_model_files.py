"""What a model's own files say about sampling and ends, and the bounds that parameters have."""

import json

import pytest

from octavo.generation_defaults import eos_token_ids, read_config, sampling_defaults
from octavo.sampling_params import SamplingParams
from octavo_api.errors import InvalidSetting, ModelUnavailable


def test_defaults_are_those_that_the_model_gives():
    found = sampling_defaults({"temperature": 0.6, "top_k": 20, "top_p": None, "max_length": 99, "do_sample": True})
    assert found == SamplingParams(temperature=0.6, top_k=20)


def test_defaults_out_of_bounds_are_the_models_fault():
    with pytest.raises(ModelUnavailable, match=r"generation_config.json: top_p: is 3, must be in \(0, 1\]; generation_config=vllm does without it"):
        sampling_defaults({"top_p": 3})


def test_end_tokens_of_several_files_once_each():
    assert eos_token_ids({"eos_token_id": [1, 2]}, {"eos_token_id": 2}, {}, {"eos_token_id": 3}) == (1, 2, 3)


@pytest.mark.parametrize(("content", "told"), [("{", "not JSON"), ("[]", "must be a JSON object, is list")])
def test_a_broken_file_is_named(tmp_path, content, told):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelUnavailable, match=told):
        read_config(tmp_path, "config.json")
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    assert read_config(tmp_path, "config.json") == {"a": 1}
    assert read_config(tmp_path, "generation_config.json") == {}


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -2}, {"min_p": 1.5}, {"repetition_penalty": 0.001}, {"presence_penalty": 2.1},
        {"frequency_penalty": -2.1}, {"max_tokens": 0}, {"min_tokens": -1}, {"seed": 2**63}, {"stop": ("a", "")}, {"min_tokens": 17},
    ],
)  # fmt: skip
def test_parameters_out_of_bounds_are_named(bad):
    (name,) = bad
    with pytest.raises(InvalidSetting, match=f"^{name}: is "):
        SamplingParams(**bad)


def test_a_temperature_too_small_to_divide_by_is_greedy():
    assert SamplingParams(temperature=1e-30) == SamplingParams(temperature=0)
    assert SamplingParams(temperature=1e-5).temperature == 1e-5


def test_one_stop_string_is_a_list_of_one():
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"], stop_token_ids=[3]).stop_token_ids == (3,)
