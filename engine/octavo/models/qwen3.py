"""Qwen3 (arXiv:2505.09388): Llama with a norm on each query and key head, which have a size of their own."""

from octavo.models.attention import Attention, AttentionPlan
from octavo.models.config import ModelConfig
from octavo.models.decoder import Decoder, PreNormLayer
from octavo.models.weights import Weights


def build(config: ModelConfig, weights: Weights, positions: int) -> Decoder:
    def layer(prefix: str, plan: AttentionPlan) -> PreNormLayer:
        attention = Attention(weights, f"{prefix}.self_attn", config, plan, output_bias=config.attention_bias, head_norms=0.0)
        return PreNormLayer(config, weights, prefix, attention)

    return Decoder(config, weights, layer, positions)
