"""A GGUF file's metadata in the shape of Hugging Face's config.json.

What llama.cpp knows by heart (Gemma 3's layer pattern, the base of its local layers, its 27B's scale) is written out
here, and Llama 3's rope factors, which it keeps as a tensor, are turned back into the parameters that made them.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

from octavo.loader.gguf_file import GgufFile, TensorInfo
from octavo_api.errors import ModelUnavailable

ARCHITECTURES: Mapping[str, tuple[str, str]] = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
}
"""GGUF's name to Hugging Face's architecture and model type."""

ROPE_FACTORS = "rope_freqs.weight"

_GEMMA3_PATTERN = 6
_GEMMA3_LOCAL_THETA = 10_000.0
_GEMMA3_27B_LAYERS = 62
_LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_ORIGINAL = 1.0, 4.0, 8192


def read_config(file: GgufFile) -> dict[str, Any]:
    """Raises ModelUnavailable: `UnsupportedModel` or `ModelInvalid`, with the key and its value."""
    keys = _Keys(file)
    if keys.architecture not in ARCHITECTURES:
        keys.unsupported(f"general.architecture is {keys.architecture!r}, supported are {', '.join(ARCHITECTURES)}")
    if file.metadata.get("split.count", 0) not in (0, 1):
        keys.unsupported("it is one part of a split model; join the parts with llama-gguf-split --merge")
    if keys.get("expert_count", 0):
        keys.unsupported("it is a mixture of experts")
    embedding = _embedding(keys)
    architecture, model_type = ARCHITECTURES[keys.architecture]
    heads = keys.count("attention.head_count")
    head_size = keys.count("attention.key_length", embedding.shape[1] // heads)
    if keys.count("attention.value_length", head_size) != head_size or keys.count("rope.dimension_count", head_size) != head_size:
        keys.unsupported(f"keys, values and rotation must be of one size, {head_size}")
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": embedding.shape[0],
        "hidden_size": embedding.shape[1],
        "intermediate_size": keys.count("feed_forward_length"),
        "num_hidden_layers": _layers(keys),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.count("attention.head_count_kv", heads),
        "head_dim": head_size,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": keys.count("context_length"),
        "rope_theta": keys.number("rope.freq_base", 10_000.0),
        "rope_scaling": _scaling(keys),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        **_special_tokens(file),
    }
    if keys.architecture == "gemma3":
        config.update(_gemma3(keys, config))
    if ROPE_FACTORS in file.tensors:
        config["rope_scaling"] = _llama3_scaling(keys, config)
    return config


class _Keys:
    """The keys of the file's architecture."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.architecture = str(file.metadata.get("general.architecture"))

    def get(self, name: str, otherwise: Any = None) -> Any:
        return self.file.metadata.get(f"{self.architecture}.{name}", otherwise)

    def number(self, name: str, otherwise: float | None = None) -> float:
        value = self.get(name, otherwise)
        if isinstance(value, list) and len(set(value)) == 1:  # one for each layer, all the same
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            self.invalid(f"{self.architecture}.{name} is {_short(value)}, must be a positive number")
        return value

    def count(self, name: str, otherwise: int | None = None) -> int:
        value = self.number(name, otherwise)
        if not isinstance(value, int):
            self.invalid(f"{self.architecture}.{name} is {value!r}, must be a whole number")
        return value

    def invalid(self, cause: str) -> NoReturn:
        raise ModelUnavailable("ModelInvalid", f"{self.file.path}: {cause}; convert the model again")

    def unsupported(self, cause: str) -> NoReturn:
        raise ModelUnavailable("UnsupportedModel", f"{self.file.path}: is not supported: {cause}")


def _short(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else repr(value)


def _embedding(keys: _Keys) -> TensorInfo:
    info = keys.file.tensors.get("token_embd.weight")
    if info is None or len(info.shape) != 2:
        keys.invalid("token_embd.weight is missing or no matrix, so it holds no language model")
    return info


def _layers(keys: _Keys) -> int:
    layers = keys.count("block_count")
    found = {name.split(".")[1] for name in keys.file.tensors if name.startswith("blk.")}
    if len(found) != layers:
        keys.invalid(f"{keys.architecture}.block_count is {layers} and there are tensors of {len(found)} blocks")
    return layers


def _special_tokens(file: GgufFile) -> dict[str, int]:
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    found = {ours: file.metadata.get(f"tokenizer.ggml.{theirs}") for ours, theirs in names.items()}
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _scaling(keys: _Keys) -> dict[str, Any] | None:
    kind = keys.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": keys.number("rope.scaling.factor")}
    if kind == "linear":
        return scaling
    if kind != "yarn" or keys.get("rope.scaling.attn_factor", 1.0) != 1.0:
        keys.unsupported(f"{keys.architecture}.rope.scaling.type is {_short(kind)}, supported are linear and yarn, without attn_factor")
    scaling["original_max_position_embeddings"] = keys.count("rope.scaling.original_context_length", keys.count("context_length"))
    for name in ("beta_fast", "beta_slow"):
        if keys.get(f"rope.scaling.yarn_{name}") is not None:
            scaling[name] = keys.number(f"rope.scaling.yarn_{name}")
    return scaling


def _gemma3(keys: _Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    layers = config["num_hidden_layers"]
    pattern = keys.get("attention.sliding_window_pattern", _GEMMA3_PATTERN)
    if isinstance(pattern, int) and pattern > 0:
        pattern = [bool((layer + 1) % pattern) for layer in range(layers)]
    if not isinstance(pattern, list) or len(pattern) != layers:
        keys.invalid(f"gemma3.attention.sliding_window_pattern is {_short(pattern)}, must be a number or say for each of {layers} layers if it slides")
    wide = layers == _GEMMA3_27B_LAYERS
    return {
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in pattern],
        "sliding_window": keys.count("attention.sliding_window"),
        "rope_local_base_freq": keys.number("rope.freq_base_swa", _GEMMA3_LOCAL_THETA),
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"] if wide else config["head_dim"],
        "hidden_activation": "gelu_pytorch_tanh",
        "final_logit_softcapping": keys.get("final_logit_softcapping"),
    }


def _llama3_scaling(keys: _Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    """The scaling whose division of the frequencies the tensor holds; every Llama 3 has the same but for its factor."""
    info = keys.file.tensors[ROPE_FACTORS]
    size = config["head_dim"] // 2
    if info.type.name != "F32" or info.shape != (size,):
        keys.invalid(f"{ROPE_FACTORS} is {info.type.name} of shape {list(info.shape)}, must be F32 of [{size}]")
    found = struct.unpack(f"<{size}f", keys.file.data(ROPE_FACTORS))
    original = keys.count("rope.scaling.original_context_length", _LLAMA3_ORIGINAL)
    expected = [_llama3_factor(config["rope_theta"] ** (2 * i / config["head_dim"]), found[-1], original) for i in range(size)]
    if not all(math.isclose(ours, theirs, rel_tol=1e-4) for ours, theirs in zip(expected, found, strict=True)):
        keys.unsupported(f"the factors in {ROPE_FACTORS} are not those of Llama 3")
    return {
        "rope_type": "llama3",
        "factor": found[-1],
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": original,
    }


def _llama3_factor(inverse: float, factor: float, original: int) -> float:
    """What one rotary frequency, given as its inverse, is divided by."""
    turns = original / (2 * math.pi * inverse)
    if turns > _LLAMA3_HIGH:
        return 1.0
    if turns < _LLAMA3_LOW or not factor > 0:
        return factor
    smooth = (turns - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW)
    return 1 / ((1 - smooth) / factor + smooth)
