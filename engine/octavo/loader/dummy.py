"""Random weights for a config.json alone: to measure a model's speed and memory without having it.

Which tensors there are only the layers know, so a dummy checkpoint yields none: the layers fill what they expected.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from octavo.loader.safetensors import model_config

_SEED = 20260101
_STANDARD_DEVIATION = 0.02


class DummyCheckpoint:
    """A `Checkpoint` without tensors."""

    num_bytes = 0

    def __init__(self, folder: Path) -> None:
        """Raises ModelUnavailable when there is no config.json, or a broken one."""
        self.config = model_config(folder)
        named = self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16"
        self.dtype: torch.dtype = getattr(torch, str(named), torch.bfloat16)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())

    def fill(self, targets: Iterable[tuple[str, Tensor]]) -> None:
        """Fills named tensors with the same random numbers every time, norms with about one."""
        generators: dict[torch.device, torch.Generator] = {}
        for name, target in targets:
            device = target.device
            generator = generators.setdefault(device, torch.Generator(device).manual_seed(_SEED))
            target.normal_(1.0 if name.endswith("norm.weight") else 0.0, _STANDARD_DEVIATION, generator=generator)
