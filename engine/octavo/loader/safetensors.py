"""Weights in safetensors files, one or sharded by an index, beside a config.json."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from octavo.generation_defaults import read_config
from octavo_api.errors import ModelUnavailable

_INDEX = "model.safetensors.index.json"
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_HEADER_LIMIT = 100 << 20


def model_config(folder: Path) -> Mapping[str, Any]:
    """The config.json of a model folder. Raises ModelUnavailable when it is missing or broken."""
    config = read_config(folder, "config.json")
    if not config:
        raise ModelUnavailable("ModelInvalid", f"{folder}: has no config.json, which says what the model is")
    return config


class SafetensorsCheckpoint:
    """A `Checkpoint` on memory maps of the files. All of them are looked at on opening."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelUnavailable when config.json, a shard or a part of one is missing."""
        self.config = model_config(folder)
        self._files = _files(folder)
        headers = [header for file in self._files for header in _header(file).values()]
        self.num_bytes = sum(header["data_offsets"][1] - header["data_offsets"][0] for header in headers)
        self.dtype = _widest(folder, headers)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for file in self._files:
            try:
                with safe_open(file, framework="pt") as shard:
                    for name in shard.keys():  # noqa: SIM118
                        yield name, shard.get_tensor(name)
            except SafetensorError as error:
                raise ModelUnavailable("ModelInvalid", f"{file}: {error}") from error


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ModelUnavailable("ModelInvalid", f"{index}: is not an index of shards: {error!r}") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelUnavailable("WeightsNotFound", f"{folder}: {len(missing)} of {len(names)} shards are missing: {', '.join(missing)}; fetch them again")
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelUnavailable("WeightsNotFound", f"{folder}: holds no *.safetensors")
    return files


def _header(file: Path) -> dict[str, Any]:
    """What the file says of each of its tensors, having looked that the file is as long as it says."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size, _HEADER_LIMIT):
            raise ModelUnavailable("ModelInvalid", f"{file}: is no safetensors file, or was cut: {size} bytes, of which the header should be {length}")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise ModelUnavailable("ModelInvalid", f"{file}: is no safetensors file: {error}") from error
    header.pop("__metadata__", None)
    expected = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    if size != expected:
        raise ModelUnavailable("ModelInvalid", f"{file}: has {size} bytes and should have {expected}; it was cut or changed, fetch it again")
    return header


def _widest(folder: Path, headers: list[dict[str, Any]]) -> torch.dtype:
    unknown = sorted({header["dtype"] for header in headers} - set(_DTYPES))
    if unknown:
        raise ModelUnavailable(
            "UnsupportedModel", f"{folder}: holds tensors of {', '.join(unknown)}; weights must be of {', '.join(_DTYPES)}, quantised ones in a GGUF file"
        )
    return max((_DTYPES[header["dtype"]] for header in headers), key=lambda dtype: (dtype.itemsize, dtype == torch.float16), default=torch.float32)
