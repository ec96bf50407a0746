"""Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama with biases on query, key and value."""

from octavo.models.attention import Attention, AttentionPlan
from octavo.models.config import ModelConfig
from octavo.models.decoder import Decoder, PreNormLayer
from octavo.models.weights import Weights


def build(config: ModelConfig, weights: Weights, positions: int) -> Decoder:
    def layer(prefix: str, plan: AttentionPlan) -> PreNormLayer:
        return PreNormLayer(config, weights, prefix, Attention(weights, f"{prefix}.self_attn", config, plan))

    return Decoder(config, weights, layer, positions)
