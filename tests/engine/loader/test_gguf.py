"""GGUF files become what Hugging Face's own reader makes of them: the same configuration, the same weights."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Packing
from transformers import AutoModelForCausalLM

from octavo.loader.gguf import GgufCheckpoint
from octavo.models.config import ModelConfig, read_model_config
from octavo_api.errors import ModelUnavailable

MakeGguf = Callable[..., Path]

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, INNER, VOCABULARY, LAYERS = 64, 4, 2, 128, 96, 160, 2
METADATA: dict[str, Any] = {
    "block_count": LAYERS,
    "context_length": 512,
    "embedding_length": HIDDEN,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "attention.key_length": HEAD_SIZE,
    "attention.value_length": HEAD_SIZE,
    "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 500_000.0,
    "vocab_size": VOCABULARY,
}


def tensors(architecture: str) -> dict[str, np.ndarray]:
    """A small model of random numbers."""
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (VOCABULARY, HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        block = {
            "attn_norm": (HIDDEN,),
            "attn_q": (HEADS * HEAD_SIZE, HIDDEN),
            "attn_k": (KV_HEADS * HEAD_SIZE, HIDDEN),
            "attn_v": (KV_HEADS * HEAD_SIZE, HIDDEN),
            "attn_output": (HIDDEN, HEADS * HEAD_SIZE),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (INNER, HIDDEN),
            "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
        }
        if architecture in ("qwen3", "gemma3"):
            block |= {"attn_q_norm": (HEAD_SIZE,), "attn_k_norm": (HEAD_SIZE,)}
        if architecture == "gemma3":
            block |= {"post_attention_norm": (HIDDEN,), "post_ffw_norm": (HIDDEN,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return {f"{name}.weight": random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def compare(path: Path) -> None:
    """Configuration and every tensor of our reader and of transformers'."""
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    ours = GgufCheckpoint(path)
    architecture = ours.config["architectures"][0]
    config = theirs.config.to_dict() | {"quantization_config": None}
    assert comparable(read_model_config(ours.config, architecture)) == comparable(read_model_config(config, architecture))
    assert type(theirs).__name__ == architecture
    left = theirs.state_dict()
    if ours.config["tie_word_embeddings"]:
        left.pop("lm_head.weight")
    num_bytes = 0
    for name, tensor in ours.tensors():
        torch.testing.assert_close(tensor.float(), left.pop(name), rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")
        num_bytes += tensor.numel() * tensor.element_size()
    assert not left, "transformers finds more tensors"
    assert num_bytes == ours.num_bytes


def comparable(config: ModelConfig) -> ModelConfig:
    """Without the length that a rope that lengthens nothing was trained on: it is not used."""
    ropes = {name: getattr(config, name) for name in ("rope", "local_rope")}
    ropes = {name: msgspec.structs.replace(rope, original_max_positions=0) for name, rope in ropes.items() if rope.kind == "default"}
    return msgspec.structs.replace(config, **ropes)


@pytest.fixture
def _read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads the file twice, and makes the same table of names for each module, each time for long."""
    monkeypatch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
    monkeypatch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))


@pytest.mark.slow
@pytest.mark.usefixtures("_read_once")
@pytest.mark.parametrize("model", ["smollm2", "qwen2_coder", "gemma3_270m"])
def test_real_models_are_read_as_transformers_reads_them(model: str, request: pytest.FixtureRequest) -> None:
    compare(request.getfixturevalue(model))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_small_models_are_read_as_transformers_reads_them(architecture: str, make_gguf: MakeGguf) -> None:
    compare(make_gguf(architecture, METADATA | {"rope.dimension_count": HEAD_SIZE}, tensors(architecture)))


@pytest.mark.parametrize("packing", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0", "MXFP4"])
def test_every_packing_is_unpacked_whole(packing: str, make_gguf: MakeGguf) -> None:
    """More numbers than one task takes, in a count that divides into nothing even."""
    matrix = np.random.default_rng(1).standard_normal((1031, 256), dtype=np.float32)
    path = make_gguf("llama", METADATA, tensors("llama") | {"blk.0.odd.weight": (matrix, Packing[packing])})
    found = dict(GgufCheckpoint(path).tensors())["blk.0.odd.weight"]
    expected = gguf.quants.dequantize(gguf.quants.quantize(matrix, Packing[packing]), Packing[packing])
    assert np.array_equal(found.float().numpy(), expected)
    assert found.dtype is {"F16": torch.float16, "BF16": torch.bfloat16}.get(packing, torch.float32)


@pytest.mark.parametrize("packing", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_packings_that_python_cannot_make_are_unpacked_whole(packing: str, make_gguf: MakeGguf) -> None:
    """Any bytes are a packed matrix; small ones make float16 scales that are numbers."""
    rows = 517
    _, size = gguf.constants.GGML_QUANT_SIZES[Packing[packing]]
    blocks = 256 // gguf.constants.GGML_QUANT_SIZES[Packing[packing]][0]
    raw = np.random.default_rng(2).integers(0, 60, (rows, blocks * size), dtype=np.uint8)
    path = make_gguf("llama", METADATA, tensors("llama") | {"blk.0.odd.weight": (raw, Packing[packing])})
    found = dict(GgufCheckpoint(path).tensors())["blk.0.odd.weight"]
    assert found.shape == (rows, 256)
    assert np.array_equal(found.numpy(), gguf.quants.dequantize(raw, Packing[packing]))


def test_gemma3_has_what_llama_cpp_knows_by_heart(make_gguf: MakeGguf) -> None:
    weights = tensors("gemma3")
    scaling = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    checkpoint = GgufCheckpoint(make_gguf("gemma3", METADATA | scaling | {"attention.sliding_window": 48}, weights))
    config = read_model_config(checkpoint.config, "Gemma3ForCausalLM")
    assert config.windows == (48, 48), "every sixth layer attends to all, and there are two"
    assert (config.rope.theta, config.rope.factor) == (500_000.0, 8.0)
    assert (config.local_rope.theta, config.local_rope.factor) == (10_000.0, 1.0)
    assert config.attention_scale == HEAD_SIZE**-0.5
    found = dict(checkpoint.tensors())
    assert np.array_equal(found["model.layers.1.pre_feedforward_layernorm.weight"].numpy(), weights["blk.1.ffn_norm.weight"] - 1)
    assert np.array_equal(found["model.layers.1.post_attention_layernorm.weight"].numpy(), weights["blk.1.post_attention_norm.weight"] - 1)
    assert np.array_equal(found["model.layers.0.self_attn.q_norm.weight"].numpy(), weights["blk.0.attn_q_norm.weight"] - 1)


def test_gemma3_layer_pattern_in_the_file_wins(make_gguf: MakeGguf) -> None:
    extra = {"attention.sliding_window": 48, "attention.sliding_window_pattern": [False, True]}
    assert GgufCheckpoint(make_gguf("gemma3", METADATA | extra, tensors("gemma3"))).config["layer_types"] == ["full_attention", "sliding_attention"]


def rope_factors(factor: float, low: float = 1.0, high: float = 4.0, original: int = 8192) -> np.ndarray:
    """The tensor that llama.cpp's converter writes for Llama 3, in its words."""
    factors = []
    for frequency in 1.0 / 500_000.0 ** (np.arange(0, HEAD_SIZE, 2) / HEAD_SIZE):
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_rope_factors_become_its_scaling(factor: float, make_gguf: MakeGguf) -> None:
    checkpoint = GgufCheckpoint(make_gguf("llama", METADATA, tensors("llama") | {"rope_freqs.weight": rope_factors(factor)}))
    rope = read_model_config(checkpoint.config, "LlamaForCausalLM").rope
    assert (rope.kind, rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_max_positions) == ("llama3", factor, 1.0, 4.0, 8192)
    assert "rope_freqs.weight" not in dict(checkpoint.tensors())


def test_other_rope_factors_are_refused(make_gguf: MakeGguf) -> None:
    path = make_gguf("llama", METADATA, tensors("llama") | {"rope_freqs.weight": rope_factors(8.0, high=16.0)})
    with pytest.raises(ModelUnavailable, match=r"rope_freqs.weight are not those of Llama 3"):
        GgufCheckpoint(path)


def test_yarn_is_read(make_gguf: MakeGguf) -> None:
    scaling = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 512}
    rope = read_model_config(GgufCheckpoint(make_gguf("qwen3", METADATA | scaling, tensors("qwen3"))).config, "Qwen3ForCausalLM").rope
    assert (rope.kind, rope.factor, rope.original_max_positions) == ("yarn", 4.0, 512)


@pytest.mark.parametrize(
    ("architecture", "changes", "reason", "text"),
    [
        ("mamba", {}, "UnsupportedModel", "general.architecture is 'mamba', supported are llama, qwen2, qwen3, gemma3"),
        ("llama", {"expert_count": 8}, "UnsupportedModel", "mixture of experts"),
        ("llama", {"split.count": 3}, "UnsupportedModel", "join the parts with llama-gguf-split"),
        ("llama", {"block_count": 3}, "ModelInvalid", "block_count is 3 and there are tensors of 2 blocks"),
        ("llama", {"rope.dimension_count": 16}, "UnsupportedModel", "of one size, 128"),
        ("llama", {"attention.head_count": "four"}, "ModelInvalid", "head_count is 'four', must be a positive number"),
        ("llama", {"attention.head_count": 7}, "ModelInvalid", "which do not make 7 heads"),
        ("llama", {"attention.head_count_kv": [2, 1]}, "ModelInvalid", "head_count_kv is a list of 2"),
        ("llama", {"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, "UnsupportedModel", "'longrope', supported are linear and yarn"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(architecture: str, changes: dict[str, Any], reason: str, text: str, make_gguf: MakeGguf) -> None:
    path = make_gguf(architecture, METADATA | changes, tensors(architecture))
    with pytest.raises(ModelUnavailable) as refused:
        list(GgufCheckpoint(path).tensors())
    assert refused.value.reason == reason
    assert text in str(refused.value)
    assert str(path) in str(refused.value)


def test_whole_numbers_are_no_weights(make_gguf: MakeGguf) -> None:
    path = make_gguf("llama", METADATA, tensors("llama") | {"blk.0.odd.weight": np.ones((4, 4), np.int32)})
    with pytest.raises(ModelUnavailable, match="packed as I32"):
        GgufCheckpoint(path)


@pytest.mark.parametrize(("matrices", "expected"), [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.bfloat16)])
def test_the_dtype_is_that_of_the_matrices(matrices: str, expected: torch.dtype, make_gguf: MakeGguf) -> None:
    packed = {name: array if array.ndim == 1 else (array, Packing[matrices]) for name, array in tensors("llama").items()}
    assert GgufCheckpoint(make_gguf("llama", METADATA, packed)).dtype is expected
