"""What a config.json says about a model, typed, checked and the same for all families.

Both spellings of Hugging Face are read: `rope_parameters` and `layer_types` of newer files, `rope_theta`,
`rope_scaling` and `sliding_window_pattern` of older ones. What the engine cannot compute is refused here, by name.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from octavo.core.schedule import LayerGroup
from octavo_api.errors import ModelUnavailable

GEMMA3 = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")

_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_GEMMA3_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "tie_word_embeddings": True,
}
_ONLY: Mapping[str, Any] = {"attn_logit_softcapping": None, "use_bidirectional_attention": False, "partial_rotary_factor": 1.0, "quantization_config": None}
"""Fields with just one supported value."""
_DEFAULTS: Mapping[str, Any] = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 10_000.0, "tie_word_embeddings": False}


class Rope(Struct, frozen=True, kw_only=True):
    """Rotary embedding of some layers: its base, and what lengthens the context (`kind` default: nothing)."""

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


class ModelConfig(Struct, frozen=True, kw_only=True):
    """`windows[i]` is the attention window of layer i, 0 for none; `rope` is for layers without one, `local_rope` for the others."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    norm_eps: float
    max_positions: int
    tied: bool
    activation: str
    attention_bias: bool
    mlp_bias: bool
    attention_scale: float
    logit_softcap: float | None
    windows: tuple[int, ...]
    rope: Rope
    local_rope: Rope

    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """Layers with the same window, those with full attention first."""
        return tuple(
            LayerGroup(
                kind="sliding_window" if window else "full",
                window=window,
                layers=tuple(layer for layer, other in enumerate(self.windows) if other == window),
                num_kv_heads=self.num_kv_heads,
                head_size=self.head_size,
            )
            for window in sorted(set(self.windows))
        )


class _Fields:
    """A config's fields, each asked for by type; an absent one has the family's default."""

    def __init__(self, raw: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self._raw = raw
        self._defaults = defaults

    def get(self, name: str, otherwise: Any = None) -> Any:
        value = self._raw.get(name)
        return self._defaults.get(name, otherwise) if value is None else value

    def number(self, name: str, otherwise: float | None = None) -> float:
        value = self.get(name, otherwise)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ModelUnavailable("ModelInvalid", f"config.json: {name} is {value!r}, must be a positive number")
        return value

    def count(self, name: str, otherwise: int | None = None) -> int:
        value = self.number(name, otherwise)
        if not isinstance(value, int):
            raise ModelUnavailable("ModelInvalid", f"config.json: {name} is {value!r}, must be a positive whole number")
        return value


def read_model_config(raw: Mapping[str, Any], architecture: str) -> ModelConfig:
    """Reads a config.json, of a multimodal model its text part.

    Raises:
        ModelUnavailable: `ModelInvalid` for a missing or senseless value, `UnsupportedModel` for something not built in.
    """
    fields = _Fields({**raw, **raw.get("text_config", {})}, _GEMMA3_DEFAULTS if architecture in GEMMA3 else _DEFAULTS)
    heads = fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", heads)
    hidden = fields.count("hidden_size")
    head_size = fields.count("head_dim", hidden // heads)
    if heads % kv_heads or head_size % 2:
        raise ModelUnavailable("ModelInvalid", f"config.json: {heads} attention heads of size {head_size} do not go with {kv_heads} key-value heads")
    _refuse_unsupported(fields)
    activation = fields.get("hidden_activation") or fields.get("hidden_act")
    if activation not in _ACTIVATIONS:
        raise ModelUnavailable("UnsupportedModel", f"config.json: hidden_act is {activation!r}, must be one of {', '.join(_ACTIVATIONS)}")
    rope, local_rope = _ropes(fields)
    bias = bool(fields.get("attention_bias", architecture == "Qwen2ForCausalLM"))
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.count("intermediate_size"),
        num_layers=fields.count("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        norm_eps=fields.number("rms_norm_eps"),
        max_positions=_max_positions(fields, rope),
        tied=bool(fields.get("tie_word_embeddings")),
        activation=_ACTIVATIONS[activation],
        attention_bias=bias,
        mlp_bias=bool(fields.get("mlp_bias", False)),
        attention_scale=fields.number("query_pre_attn_scalar", head_size) ** -0.5,
        logit_softcap=fields.get("final_logit_softcapping"),
        windows=_windows(fields),
        rope=rope,
        local_rope=local_rope,
    )


def _refuse_unsupported(fields: _Fields) -> None:
    for name, neutral in _ONLY.items():
        value = fields.get(name, neutral)
        if value != neutral:
            shown = value.get("quant_method", value) if isinstance(value, dict) else value
            raise ModelUnavailable("UnsupportedModel", f"config.json: {name} is {shown!r}, which is not supported; use a model without it")


def _windows(fields: _Fields) -> tuple[int, ...]:
    layers = fields.count("num_hidden_layers")
    kinds = fields.get("layer_types")
    if kinds is None and fields.get("use_sliding_window"):
        kinds = ["sliding_attention" if layer >= fields.get("max_window_layers", 28) else "full_attention" for layer in range(layers)]
    elif kinds is None and fields.get("sliding_window_pattern"):
        pattern = fields.count("sliding_window_pattern")
        kinds = ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)]
    elif kinds is None:
        return (0,) * layers
    if len(kinds) != layers or set(kinds) - {"full_attention", "sliding_attention"}:
        raise ModelUnavailable(
            "UnsupportedModel", f"config.json: layer_types is {kinds}, must be full_attention or sliding_attention for each of {layers} layers"
        )
    return tuple(fields.count("sliding_window") if kind == "sliding_attention" else 0 for kind in kinds)


def _ropes(fields: _Fields) -> tuple[Rope, Rope]:
    """For layers with full attention and for those with a window."""
    parameters = fields.get("rope_parameters") or {}
    theta = fields.number("rope_theta")
    local_theta = fields.get("rope_local_base_freq", theta)
    if "full_attention" in parameters:
        return _rope(fields, parameters["full_attention"], theta), _rope(fields, parameters.get("sliding_attention") or {}, local_theta)
    rope = _rope(fields, parameters or fields.get("rope_scaling") or {}, theta)
    return rope, Rope(theta=local_theta) if fields.get("rope_local_base_freq") else rope


def _rope(fields: _Fields, scaling: Mapping[str, Any], theta: float) -> Rope:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "dynamic":  # the same as default within max_position_embeddings, and no sequence leaves them
        kind = "default"
    if kind not in ("default", "linear", "llama3", "yarn") or scaling.get("partial_rotary_factor", 1.0) != 1.0 or "mscale" in scaling:
        raise ModelUnavailable(
            "UnsupportedModel", f"config.json: rope scaling {dict(scaling)} is not supported; supported are default, linear, llama3 and yarn"
        )
    return Rope(
        theta=float(scaling.get("rope_theta", theta)),
        kind=kind,
        factor=float(scaling.get("factor", 1.0)),
        low_freq_factor=float(scaling.get("low_freq_factor", 1.0)),
        high_freq_factor=float(scaling.get("high_freq_factor", 4.0)),
        original_max_positions=int(scaling.get("original_max_position_embeddings") or fields.count("max_position_embeddings")),
        attention_factor=scaling.get("attention_factor"),
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        truncate=bool(scaling.get("truncate", True)),
    )


def _max_positions(fields: _Fields, rope: Rope) -> int:
    positions = fields.count("max_position_embeddings")
    return max(positions, int(rope.original_max_positions * rope.factor)) if rope.kind == "yarn" else positions
