"""Gemma 3 (arXiv:2503.19786), its text part: most layers attend to a window, norms before and after attention and MLP."""

from torch import Tensor

from octavo.models.attention import Attention, AttentionPlan
from octavo.models.batch import Batch
from octavo.models.config import ModelConfig
from octavo.models.decoder import Decoder
from octavo.models.layers import GatedMLP, Norm
from octavo.models.weights import Weights

_NORM_OFFSET = 1.0
_VISION = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


class Gemma3Layer:
    """A norm before and after each of attention and MLP."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, plan: AttentionPlan) -> None:
        def norm(name: str) -> Norm:
            return Norm(weights, f"{prefix}.{name}", config.hidden_size, config.norm_eps, _NORM_OFFSET)

        self.input_norm = norm("input_layernorm")
        self.attention = Attention(weights, f"{prefix}.self_attn", config, plan, output_bias=config.attention_bias, head_norms=_NORM_OFFSET)
        self.after_attention_norm = norm("post_attention_layernorm")
        self.mlp_norm = norm("pre_feedforward_layernorm")
        self.mlp = GatedMLP(weights, f"{prefix}.mlp", (config.hidden_size, config.intermediate_size), config.activation)
        self.after_mlp_norm = norm("post_feedforward_layernorm")

    def __call__(self, x: Tensor | None, residual: Tensor, batch: Batch, kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        x = self.input_norm(residual) if x is None else self.input_norm(x, residual)
        x = self.after_attention_norm(self.attention(x, batch, kv_cache))
        return self.after_mlp_norm(self.mlp(self.mlp_norm(x, residual)))


def build(config: ModelConfig, weights: Weights, positions: int) -> Decoder:
    def layer(prefix: str, plan: AttentionPlan) -> Gemma3Layer:
        return Gemma3Layer(config, weights, prefix, plan)

    return Decoder(config, weights, layer, positions, norm_offset=_NORM_OFFSET, embedding_scale=config.hidden_size**0.5)


def text_name(name: str) -> str | None:
    """A tensor's name in the text model; None for the vision part of a multimodal one."""
    if name.startswith(_VISION):
        return None
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return name.removeprefix("language_model.")
