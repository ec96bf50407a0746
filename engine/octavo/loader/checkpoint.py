"""The interface between a model's files and its layers: a configuration and named tensors, whatever holds them.

Which file becomes which `Checkpoint` is decided here; reading one is left to `safetensors`, `gguf` and `dummy`, the
meaning of configuration and names to `octavo.models`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from octavo.loader.dummy import DummyCheckpoint
from octavo.loader.safetensors import SafetensorsCheckpoint
from octavo_api.errors import InvalidSetting, ModelUnavailable


class Checkpoint(Protocol):
    """The weights of one model, on disk.

    Attributes:
        config: in the shape of Hugging Face's config.json.
        dtype: of the stored weights; bfloat16 for quantised ones, which then means 16 bits or fewer.
        num_bytes: what `tensors` yields in all.
    """

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def num_bytes(self) -> int: ...

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor under its Hugging Face name, one after the other, so that no second copy of the model is held.

        A tensor may lie in the file's memory map: read it before taking the next, and do not write to it.
        """


def open_checkpoint(path: Path, load_format: str) -> Checkpoint:
    """Opens the model at `path`, a folder or a GGUF file.

    Raises:
        ModelUnavailable: there is none in this format, or its files are broken.
        InvalidSetting: `load_format` is not one.
    """
    if not path.exists():
        raise ModelUnavailable("WeightsNotFound", f"{path}: there is no such file or folder")
    if load_format == "auto":
        load_format = _format_of(path)
    if load_format == "dummy":
        return DummyCheckpoint(path)
    if load_format == "safetensors":
        return SafetensorsCheckpoint(path)
    if load_format == "gguf":
        from octavo.loader.gguf import GgufCheckpoint  # only GGUF files need its reader

        found: Checkpoint = GgufCheckpoint(_gguf_file(path))
        return found
    raise InvalidSetting(f"load_format: is {load_format!r}, must be auto, safetensors, gguf or dummy")


def _format_of(path: Path) -> str:
    if path.is_file():
        if path.suffix == ".gguf":
            return "gguf"
        raise ModelUnavailable("WeightsNotFound", f"{path}: is not a GGUF file; give a .gguf file or a folder with config.json and safetensors")
    if any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json")):
        return "safetensors"
    if any(path.glob("*.gguf")):
        return "gguf"
    others = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
    hint = f"; {', '.join(others[:3])} must be converted to safetensors" if others else ""
    raise ModelUnavailable("WeightsNotFound", f"{path}: holds no *.safetensors and no *.gguf{hint}")


def _gguf_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.gguf"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ModelUnavailable("WeightsNotFound", f"{path}: must hold one .gguf file, holds {names}; name the file itself")
    return files[0]
