"""Llama (arXiv:2302.13971, 2407.21783) and models of its architecture, such as SmolLM2."""

from octavo.models.attention import Attention, AttentionPlan
from octavo.models.config import ModelConfig
from octavo.models.decoder import Decoder, PreNormLayer
from octavo.models.weights import Weights


def build(config: ModelConfig, weights: Weights, positions: int) -> Decoder:
    def layer(prefix: str, plan: AttentionPlan) -> PreNormLayer:
        attention = Attention(weights, f"{prefix}.self_attn", config, plan, output_bias=config.attention_bias)
        return PreNormLayer(config, weights, prefix, attention)

    return Decoder(config, weights, layer, positions)
