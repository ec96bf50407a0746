"""From the architecture that a config.json names to the family that computes it, and from a checkpoint to a loaded model."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor

from octavo.executor.protocol import ProgressCallback
from octavo.loader.checkpoint import Checkpoint
from octavo.loader.dummy import DummyCheckpoint
from octavo.models import gemma3, llama, qwen2, qwen3
from octavo.models.config import ModelConfig, read_model_config
from octavo.models.decoder import Decoder
from octavo.models.weights import Weights
from octavo_api.errors import ModelUnavailable

CPU = torch.device("cpu")

_BUFFERS = (".rotary_emb.inv_freq", ".masked_bias")
"""Endings of tensors that older checkpoints hold and no model needs."""


def _as_it_is(name: str) -> str | None:
    return name


class Family(Struct, frozen=True):
    """`build` makes the layers; `rename` gives a checkpoint's tensor its name in them, None for one that is left out."""

    build: Callable[[ModelConfig, Weights, int], Decoder]
    rename: Callable[[str], str | None] = _as_it_is


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(llama.build),
    "Qwen2ForCausalLM": Family(qwen2.build),
    "Qwen3ForCausalLM": Family(qwen3.build),
    "Gemma3ForCausalLM": Family(gemma3.build, gemma3.text_name),
    "Gemma3ForConditionalGeneration": Family(gemma3.build, gemma3.text_name),
}


def architecture_of(raw: Mapping[str, Any]) -> str:
    """The first architecture of a config.json that is supported. Raises ModelUnavailable when none is."""
    named = raw.get("architectures") or []
    for name in named:
        if name in FAMILIES:
            return str(name)
    shown = ", ".join(map(str, named)) or f"none (model_type {raw.get('model_type')!r})"
    raise ModelUnavailable("UnsupportedModel", f"config.json: the architecture is {shown}; supported are {', '.join(FAMILIES)}")


def model_config(raw: Mapping[str, Any]) -> ModelConfig:
    return read_model_config(raw, architecture_of(raw))


def load_model(checkpoint: Checkpoint, dtype: torch.dtype, positions: int, progress: ProgressCallback, device: torch.device = CPU) -> Decoder:
    """Builds the model on `device` for sequences of up to `positions` tokens and loads its weights.

    Raises:
        ModelUnavailable: the model is not supported, or its tensors are not those of its configuration.
    """
    config = model_config(checkpoint.config)
    family = FAMILIES[config.architecture]
    weights = Weights(dtype, device)
    model = family.build(config, weights, positions)
    if isinstance(checkpoint, DummyCheckpoint):
        checkpoint.fill(weights.targets())
        weights.finish()
        return model
    done, total = 0, checkpoint.num_bytes

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(min(done, total), total)

    progress(0, total)
    weights.load(_renamed(checkpoint.tensors(), family.rename), count)
    progress(total, total)
    return model


def _renamed(tensors: Iterator[tuple[str, Tensor]], rename: Callable[[str], str | None]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        target = None if name.endswith(_BUFFERS) else rename(name)
        if target is not None:
            yield target, tensor
