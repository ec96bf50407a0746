"""From packed numbers in a GGUF file to tensors, on several threads, a little ahead of whoever takes them.

Numbers that are not packed are not copied either: those tensors lie in the file's memory map.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Any

import numpy as np
import torch
from gguf import quants
from gguf.constants import GGMLQuantizationType
from msgspec import Struct
from numpy.typing import NDArray
from torch import Tensor

from octavo.loader.gguf_file import GgufFile, TensorInfo

NOT_WEIGHTS = ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K")
"""Packings that no tensor of a language model has."""

_STORED: Mapping[str, tuple[torch.dtype, type[np.generic]]] = {
    "F32": (torch.float32, np.float32),
    "F16": (torch.float16, np.float16),
    "BF16": (torch.bfloat16, np.int16),  # numpy has no bfloat16; the bits are kept
}
_ROW = 4096
"""Numbers in a row as the unpacking sees it, which takes 16 rows at once: they fit a core's cache."""
_TASK = 1 << 18
"""Numbers that a thread unpacks at once; arrays of these sizes come from memory that was used before."""
_AHEAD_BYTES = 32 << 20
"""Bytes of unpacked tensors that wait to be taken. Larger ones are unpacked one after the other into the same memory."""


def stored_dtype(info: TensorInfo) -> torch.dtype | None:
    """The dtype of a tensor that is not packed."""
    return _STORED[info.type.name][0] if info.type.name in _STORED else None


def unpacked_bytes(info: TensorInfo) -> int:
    """What a tensor takes in memory; packed ones become float32."""
    return prod(info.shape) * (stored_dtype(info) or torch.float32).itemsize


def unpacked(file: GgufFile, infos: Iterable[TensorInfo]) -> Iterator[tuple[TensorInfo, Tensor]]:
    """The tensors in this order. Each is to be read before the next is taken, and not to be written to."""
    waiting: deque[_Unpacking] = deque()
    ahead = 0
    shared = np.empty(0, np.float32)
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="unpack") as threads:
        for info in infos:
            size = prod(info.shape)
            if stored_dtype(info) is None and 4 * size > _AHEAD_BYTES and shared.size < size:
                shared = np.empty(size, np.float32)
            waiting.append(_begin(file, info, shared, threads))
            ahead += unpacked_bytes(info)
            while ahead > _AHEAD_BYTES:
                ahead -= unpacked_bytes(waiting[0].info)
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Unpacking(Struct):
    """A tensor that threads are at work on."""

    info: TensorInfo
    array: NDArray[Any]
    tasks: list[Future[None]]

    def result(self) -> tuple[TensorInfo, Tensor]:
        for task in self.tasks:
            task.result()
        tensor = torch.from_numpy(self.array).view(self.info.shape)
        return self.info, tensor.view(torch.bfloat16) if self.info.type.name == "BF16" else tensor


def _begin(file: GgufFile, info: TensorInfo, shared: NDArray[np.float32], threads: ThreadPoolExecutor) -> _Unpacking:
    if info.type.name in _STORED:
        array: NDArray[Any] = np.frombuffer(file.data(info.name), _STORED[info.type.name][1])
        return _Unpacking(info, array if array.flags.aligned else array.copy(), [])
    size = prod(info.shape)
    packed = np.frombuffer(file.data(info.name), np.uint8)
    target = shared[:size] if 4 * size > _AHEAD_BYTES else np.empty(size, np.float32)
    step = max(info.type.block, _TASK // info.type.block * info.type.block)
    tasks = [threads.submit(_unpack, info, packed, target, start, min(start + step, size)) for start in range(0, size, step)]
    return _Unpacking(info, target, tasks)


def _unpack(info: TensorInfo, packed: NDArray[np.uint8], target: NDArray[np.float32], start: int, stop: int) -> None:
    """Unpacks the numbers `start` … `stop`, which are whole blocks."""
    block, size = info.type.block, info.type.block_bytes
    part = packed[start // block * size : stop // block * size]
    width = _width(stop - start, block)
    rows = part.reshape(-1, width // block * size)
    with np.errstate(all="ignore"):  # a model may be broken, and then it computes what it computes
        target[start:stop] = quants.dequantize(rows, GGMLQuantizationType[info.type.name]).reshape(-1)


def _width(count: int, block: int) -> int:
    """How many of `count` numbers make a row: whole blocks, about `_ROW` where that divides them."""
    width = block
    while width < _ROW and count % (2 * width) == 0:
        width *= 2
    return width
