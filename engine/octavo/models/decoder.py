"""The frame of every family: embedding, layers, norm, head. What is in a layer is the family's."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from octavo.models.attention import Attention, AttentionPlan
from octavo.models.batch import Batch, KVCaches
from octavo.models.config import ModelConfig
from octavo.models.layers import Embedding, GatedMLP, Head, Norm
from octavo.models.rotary import rotary_table
from octavo.models.weights import Weights


class Layer(Protocol):
    """One decoder layer. The addition to the residual stream that ends a layer is left to the norm that follows, so
    that both are one operation."""

    def __call__(self, x: Tensor | None, residual: Tensor, batch: Batch, kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        """Adds `x`, what the layer before has left to add, to `residual` in place and returns the same of its own, [T, H]."""


MakeLayer = Callable[[str, AttentionPlan], Layer]
"""From a prefix of tensor names and what the layer's attention shares with others."""


class Decoder:
    """A causal language model without its sampler."""

    def __init__(self, config: ModelConfig, weights: Weights, make_layer: MakeLayer, positions: int, *, norm_offset: float = 0.0, embedding_scale: float = 1.0):
        """`positions`: how long a sequence may get; the rotary tables end there."""
        self.config = config
        self.groups = config.layer_groups()
        self.positions = positions
        self.embed = Embedding(weights, "model.embed_tokens", config.vocab_size, config.hidden_size, embedding_scale)
        plans = _attention_plans(config, weights, positions)
        self.layers = [make_layer(f"model.layers.{index}", plans[window]) for index, window in enumerate(config.windows)]
        self.norm = Norm(weights, "model.norm", config.hidden_size, config.norm_eps, norm_offset)
        if config.tied:
            weights.tolerate("lm_head.weight")
            self.head = Head(self.embed.weight, config.logit_softcap)
        else:
            self.head = Head(weights.parameter("lm_head.weight", config.vocab_size, config.hidden_size), config.logit_softcap)
            weights.finally_do(self.head.pack)

    def __call__(self, batch: Batch, kv_caches: KVCaches) -> Tensor:
        """Computes all tokens of the batch; returns the logits [S, V] of the sampled ones."""
        residual = self.embed(batch.token_ids)
        x: Tensor | None = None
        for layer, kv_cache in zip(self.layers, kv_caches, strict=True):
            x = layer(x, residual, batch, kv_cache)
        if x is None:
            raise RuntimeError("a model has at least one layer")
        return self.head(self.norm(x.index_select(0, batch.sampled), residual.index_select(0, batch.sampled)))


class PreNormLayer:
    """The layer of Llama and Qwen: a norm before the attention and one before the MLP."""

    def __init__(self, config: ModelConfig, weights: Weights, prefix: str, attention: Attention) -> None:
        self.input_norm = Norm(weights, f"{prefix}.input_layernorm", config.hidden_size, config.norm_eps)
        self.attention = attention
        self.mlp_norm = Norm(weights, f"{prefix}.post_attention_layernorm", config.hidden_size, config.norm_eps)
        self.mlp = GatedMLP(weights, f"{prefix}.mlp", (config.hidden_size, config.intermediate_size), config.activation, config.mlp_bias)

    def __call__(self, x: Tensor | None, residual: Tensor, batch: Batch, kv_cache: tuple[Tensor, Tensor]) -> Tensor:
        x = self.input_norm(residual) if x is None else self.input_norm(x, residual)
        x = self.attention(x, batch, kv_cache)
        return self.mlp(self.mlp_norm(x, residual))


def _attention_plans(config: ModelConfig, weights: Weights, positions: int) -> dict[int, AttentionPlan]:
    """One for each window."""
    tables = {rope: rotary_table(rope, config.head_size, positions).to(weights.device) for rope in {config.rope, config.local_rope}}
    return {
        group.window: AttentionPlan(index, group.window, tables[config.local_rope if group.window else config.rope])
        for index, group in enumerate(config.layer_groups())
    }
