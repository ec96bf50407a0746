"""Weights in a GGUF file: unpacked to float32 on several threads, a few tensors ahead of whoever takes them.

Names and layouts become Hugging Face's: llama.cpp stores the rows of Llama's queries and keys in another order, and
Gemma's norms with one added.
"""

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from pathlib import Path

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor

from octavo.loader.gguf_config import ROPE_FACTORS, read_config
from octavo.loader.gguf_file import GgufFile, TensorInfo
from octavo_api.errors import ModelUnavailable

_NOT_WEIGHTS = ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")
_STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

_ROW = 4096
"""Numbers in a row as the unpacking sees it, which takes 16 rows at once: they fit a core's cache."""
_TASK = 1 << 18
"""Numbers that a thread unpacks at once; arrays of these sizes come from memory that was used before."""
_AHEAD_BYTES = 32 << 20
"""Bytes of unpacked tensors that wait to be taken."""

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA3_NAMES = {
    **_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


class GgufCheckpoint:
    """A `Checkpoint` on the memory map of a GGUF file."""

    def __init__(self, path: Path) -> None:
        """Raises ModelUnavailable when the file is broken, or holds a model or a packing that is not supported."""
        self._file = GgufFile(path)
        self.config = read_config(self._file)
        self._tensors = [info for name, info in self._file.tensors.items() if name != ROPE_FACTORS]
        for info in self._tensors:
            if info.type.name in _NOT_WEIGHTS:
                raise ModelUnavailable("UnsupportedModel", f"{path}: tensor {info.name} is packed as {info.type.name}, which holds no weights")
        self.num_bytes = sum(4 * prod(info.shape) for info in self._tensors)

    @property
    def dtype(self) -> torch.dtype:
        """The widest of the matrices; norms are always stored in float32, whatever the model was trained in."""
        found = {_STORED.get(info.type.name, torch.bfloat16) for info in self._tensors if len(info.shape) > 1}
        return max(found, key=lambda dtype: (dtype.itemsize, dtype == torch.float16), default=torch.bfloat16)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor in float32 under its Hugging Face name; one that has no such name keeps its own."""
        names = _GEMMA3_NAMES if self.config["model_type"] == "gemma3_text" else _NAMES
        waiting: deque[_Unpacking] = deque()
        ahead = 0
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="unpack") as threads:
            for info in self._tensors:
                waiting.append(_Unpacking.begin(self._file, info, threads))
                ahead += 4 * prod(info.shape)
                while ahead > _AHEAD_BYTES:
                    ahead -= 4 * prod(waiting[0].info.shape)
                    yield self._finished(waiting.popleft(), names)
            while waiting:
                yield self._finished(waiting.popleft(), names)

    def _finished(self, unpacking: "_Unpacking", names: Mapping[str, str]) -> tuple[str, Tensor]:
        array = unpacking.result()
        return _hugging_face_name(unpacking.info.name, names), torch.from_numpy(self._as_trained(unpacking.info.name, array))

    def _as_trained(self, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.config["model_type"] == "llama" and ".attn_q." in name:
            return self._rows_in_order(name, array, self.config["num_attention_heads"])
        if self.config["model_type"] == "llama" and ".attn_k." in name:
            return self._rows_in_order(name, array, self.config["num_key_value_heads"])
        if self.config["model_type"] == "gemma3_text" and name.endswith("norm.weight"):
            array -= 1
        return array

    def _rows_in_order(self, name: str, array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
        """Undoes llama.cpp's order of a head's rows: pairs that rotate together lie together there, half a head apart here."""
        if array.shape[0] % (2 * heads):
            raise ModelUnavailable("ModelInvalid", f"{self._file.path}: tensor {name} has {array.shape[0]} rows, which do not make {heads} heads")
        halves: NDArray[np.float32] = array.reshape(heads, -1, 2, *array.shape[1:]).swapaxes(1, 2)
        return np.ascontiguousarray(halves).reshape(array.shape)


class _Unpacking(Struct):
    """A tensor that threads are at work on."""

    info: TensorInfo
    array: NDArray[np.float32]
    tasks: list[Future[None]]

    @classmethod
    def begin(cls, file: GgufFile, info: TensorInfo, threads: ThreadPoolExecutor) -> "_Unpacking":
        packed = np.frombuffer(file.data(info.name), np.uint8)
        array = np.empty(prod(info.shape), np.float32)
        step = max(info.type.block, _TASK // info.type.block * info.type.block)
        starts = range(0, array.size, step)
        return cls(info, array, [threads.submit(_unpack, info, packed, array, start, min(start + step, array.size)) for start in starts])

    def result(self) -> NDArray[np.float32]:
        for task in self.tasks:
            task.result()
        return self.array.reshape(self.info.shape)


def _unpack(info: TensorInfo, packed: NDArray[np.uint8], array: NDArray[np.float32], start: int, stop: int) -> None:
    """Unpacks the numbers `start` … `stop`, which are whole blocks."""
    block, size = info.type.block, info.type.block_bytes
    part = packed[start // block * size : stop // block * size]
    width = _width(stop - start, block)
    rows = part.reshape(-1, width // block * size)
    with np.errstate(all="ignore"):  # a model may be broken, and then it computes what it computes
        array[start:stop] = quants.dequantize(rows, GGMLQuantizationType[info.type.name]).reshape(-1)


def _width(count: int, block: int) -> int:
    """How many of `count` numbers make a row: whole blocks, about `_ROW` where that divides them."""
    width = block
    while width < _ROW and count % (2 * width) == 0:
        width *= 2
    return width


def _hugging_face_name(name: str, names: Mapping[str, str]) -> str:
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(\w+)", name)
    if found is None or found[2] not in names:
        return name
    layer = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{layer}{names[found[2]]}.{found[3]}"
