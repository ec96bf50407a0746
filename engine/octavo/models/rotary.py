"""Cosines and sines of rotary position embeddings, as `octavo.ops.rotary_kv_write` reads them."""

import math

import torch
from torch import Tensor

from octavo.models.config import Rope


def rotary_table(rope: Rope, head_size: int, positions: int) -> Tensor:
    """[positions, head_size] float32: the cosines of a position's angles, then their sines."""
    frequencies, scale = inverse_frequencies(rope, head_size)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1).mul_(scale)


def inverse_frequencies(rope: Rope, head_size: int) -> tuple[Tensor, float]:
    """[head_size / 2] float32, and the factor of cosines and sines."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    plain = 1.0 / rope.theta**exponents
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(rope, plain), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, plain, head_size), rope.attention_factor or _yarn_scale(rope.factor)
    return plain, 1.0


def _llama3(rope: Rope, plain: Tensor) -> Tensor:
    """Llama 3.1: long waves are stretched by the factor, short ones kept, those between interpolated."""
    waves = 2 * math.pi / plain
    longest, shortest = rope.original_max_positions / rope.low_freq_factor, rope.original_max_positions / rope.high_freq_factor
    share = (rope.original_max_positions / waves - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (1 - share) * plain / rope.factor + share * plain
    return torch.where(waves > longest, plain / rope.factor, torch.where(waves < shortest, plain, between))


def _yarn(rope: Rope, plain: Tensor, head_size: int) -> Tensor:
    """YaRN (arXiv:2309.00071): a ramp over the dimensions from kept to stretched."""

    def dimension(rotations: float) -> float:
        return head_size * math.log(rope.original_max_positions / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    ramp = ((torch.arange(head_size // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    return plain / rope.factor * ramp + plain * (1 - ramp)


def _yarn_scale(factor: float) -> float:
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0
