"""What a config.json asks for is understood or refused by name, and every tensor finds its place or is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from octavo.core.schedule import LayerGroup
from octavo.models.registry import model_config
from octavo.models.rotary import inverse_frequencies, rotary_table
from octavo_api.errors import ModelUnavailable

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}


def refusal(config):
    with pytest.raises(ModelUnavailable) as caught:
        model_config(config)
    return caught.value


def test_defaults():
    config = model_config(LLAMA)
    assert (config.num_kv_heads, config.head_size, config.rope.theta, config.tied) == (4, 16, 10_000.0, False)
    assert config.attention_scale == 0.25
    assert config.layer_groups() == (LayerGroup(kind="full", window=0, layers=(0, 1), num_kv_heads=4, head_size=16),)


def test_gemma3_of_an_early_file():
    """A multimodal config with little in it: the pattern of windows and both rope bases are the family's."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 12,
        "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    config = model_config({"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text})
    full, window = config.layer_groups()
    assert full.layers == (5, 11)
    assert (window.kind, window.window, len(window.layers)) == ("sliding_window", 1024, 10)
    assert (config.rope.theta, config.rope.kind, config.rope.factor) == (1_000_000.0, "linear", 8.0)
    assert (config.local_rope.theta, config.local_rope.kind) == (10_000.0, "default")
    assert config.tied
    assert config.activation == "gelu_tanh"


def test_qwen_windows():
    """Layers from max_window_layers on have the window, if it is in use."""
    qwen = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 32, "max_window_layers": 1}
    assert model_config({**qwen, "use_sliding_window": False}).windows == (0, 0)
    assert model_config({**qwen, "use_sliding_window": True}).windows == (0, 32)
    assert model_config(qwen).attention_bias


@pytest.mark.parametrize(
    ("change", "reason", "named"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "UnsupportedModel", "MambaForCausalLM; supported are LlamaForCausalLM"),
        ({"architectures": None}, "UnsupportedModel", "none"),
        ({"hidden_size": None}, "ModelInvalid", "hidden_size is None"),
        ({"num_hidden_layers": -1}, "ModelInvalid", "num_hidden_layers is -1"),
        ({"vocab_size": "many"}, "ModelInvalid", "vocab_size is 'many'"),
        ({"num_key_value_heads": 3}, "ModelInvalid", "do not go with 3 key-value heads"),
        ({"hidden_act": "relu"}, "UnsupportedModel", "hidden_act is 'relu'"),
        ({"attn_logit_softcapping": 50.0}, "UnsupportedModel", "attn_logit_softcapping is 50.0"),
        ({"quantization_config": {"quant_method": "awq"}}, "UnsupportedModel", "quantization_config is 'awq'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "UnsupportedModel", "longrope"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "UnsupportedModel", "linear_attention"),
    ],
)
def test_what_is_not_supported_is_named(change, reason, named):
    error = refusal({**LLAMA, **change})
    assert error.reason == reason
    assert named in str(error)


ROPES = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25},
]


@pytest.mark.parametrize("scaling", ROPES, ids=lambda scaling: f"{scaling['rope_type']}-{len(scaling)}")
def test_rope_is_that_of_transformers(scaling):
    theirs = LlamaConfig(hidden_size=256, num_attention_heads=4, max_position_embeddings=256, rope_parameters={**scaling, "rope_theta": 500_000.0})
    ours = model_config({**LLAMA, "hidden_size": 256, "max_position_embeddings": 256, "rope_theta": 500_000.0, "rope_scaling": scaling})
    if scaling["rope_type"] == "default":
        frequencies, factor = 1.0 / 500_000.0 ** (torch.arange(0, 64, 2) / 64), 1.0
    else:
        frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, torch.device("cpu"))
    found, scale = inverse_frequencies(ours.rope, 64)
    torch.testing.assert_close(found, frequencies, rtol=1e-6, atol=0)
    assert scale == pytest.approx(factor)
    table = rotary_table(ours.rope, 64, 10)
    torch.testing.assert_close(table[3, :32], (3 * frequencies).cos() * factor, rtol=1e-5, atol=1e-6)


def test_yarn_lengthens_the_context():
    assert model_config({**LLAMA, "rope_scaling": {"type": "yarn", "factor": 4.0}}).max_positions == 512


def broken(make_small, tmp_path, change):
    """The small Qwen3 with its tensors changed by `change`."""
    folder = make_small("qwen3").folder
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    return tmp_path


def test_missing_tensors_are_named(make_small, tmp_path, engine):
    model = broken(make_small, tmp_path, lambda tensors: tensors.pop("model.layers.1.self_attn.q_norm.weight"))
    with pytest.raises(ModelUnavailable, match=r"1 tensors are missing: model\.layers\.1\.self_attn\.q_norm\.weight"):
        engine(model, {"r": [1]})


def test_unexpected_tensors_are_named(make_small, tmp_path, engine):
    model = broken(make_small, tmp_path, lambda tensors: tensors.update({f"model.layers.{i}.extra": torch.zeros(1) for i in range(20)}))
    with pytest.raises(ModelUnavailable, match=r"20 tensors are not part of this model: model\.layers\.0\.extra.* and 12 more"):
        engine(model, {"r": [1]})


def test_a_tensor_of_another_shape_is_named(make_small, tmp_path, engine):
    model = broken(make_small, tmp_path, lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)}))
    with pytest.raises(ModelUnavailable, match=r"model\.norm\.weight is \[5\], must be \[64\]"):
        engine(model, {"r": [1]})


def test_a_tied_head_may_be_in_the_file(make_small, tmp_path, engine):
    """Some files hold the tied matrix twice; it is taken once."""
    folder = make_small("qwen2").folder
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    save_file({**tensors, "lm_head.weight": torch.zeros(311, 64)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert engine(tmp_path, {"r": [1, 2]}).tokens == engine(folder, {"r": [1, 2]}).tokens


def test_the_text_part_of_a_multimodal_gemma(tmp_path, engine, follows):
    text = {
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 300,
        "max_position_embeddings": 256,
        "sliding_window": 24,
        "initializer_range": 0.15,
    }
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    torch.manual_seed(3)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)).float().eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Gemma3ForConditionalGeneration"]
    prompt = list(range(5, 45))
    follows(model, prompt, engine(tmp_path, {"r": prompt}).tokens["r"])


def test_the_judge_tells_a_wrong_token(make_small, engine, follows):
    small = make_small("llama")
    answer = engine(small.folder, {"r": [5, 6, 7]}).tokens["r"]
    follows(small.reference, [5, 6, 7], answer)
    answer[40] = (answer[40] + 1) % 311
    with pytest.raises(AssertionError, match="token 40"):
        follows(small.reference, [5, 6, 7], answer)
