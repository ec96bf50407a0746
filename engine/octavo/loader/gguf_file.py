"""What a GGUF file holds: metadata and the directory of its tensors, read in place over a memory map.

The `gguf` package's reader makes an array object for every token of the vocabulary and takes seconds; here lists are
stepped over and decoded when somebody asks for them. Without torch and numpy, because the API process reads tokenizers
here. What a tensor's bytes mean is left to `octavo.loader.gguf`.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from msgspec import Struct

from octavo_api.errors import ModelUnavailable

MAGIC = b"GGUF"
VERSIONS = (2, 3)

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_MAX_DIMENSIONS = 4
_MAX_KEY_BYTES = 65_535


class TensorType(Struct, frozen=True):
    """How numbers are packed: `block` numbers in `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int


TENSOR_TYPES: Mapping[int, TensorType] = {
    number: TensorType(name, block, block_bytes)
    for number, name, block, block_bytes in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 40),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
    )
}


class TensorInfo(Struct, frozen=True):
    """One tensor. `shape` has the slowest dimension first, as torch's; `offset` counts bytes from the file's begin."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    num_bytes: int


class GgufFile:
    """An open GGUF file.

    Attributes:
        path: the file.
        metadata: every key with a plain Python value: str, int, float, bool or a list of one of them.
        tensors: every tensor by its name, in the file's order.

    Raises:
        ModelUnavailable: `ModelInvalid`, the file is no whole GGUF file; with the offset and the cause. Reading a list
            of strings from `metadata` raises it too, when the text is not UTF-8.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = _map(path)
        reader = _Reader(path, self._bytes)
        num_tensors, num_keys = reader.head()
        self.metadata: Mapping[str, Any] = _Metadata(reader, num_keys)
        self.tensors: Mapping[str, TensorInfo] = self._directory(reader, num_tensors)

    def data(self, name: str) -> memoryview:
        """The packed bytes of a tensor, not copied."""
        info = self.tensors[name]
        return memoryview(self._bytes)[info.offset : info.offset + info.num_bytes]

    def _directory(self, reader: "_Reader", count: int) -> dict[str, TensorInfo]:
        entries = [(reader.position, *reader.tensor()) for _ in range(reader.checked(count, "tensors"))]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            reader.fail(f"general.alignment is {alignment!r}, must be a power of two", 0)
        start = -(-reader.position // alignment) * alignment
        tensors: dict[str, TensorInfo] = {}
        for position, name, shape, kind, offset in entries:
            if kind not in TENSOR_TYPES:
                reader.fail(f"tensor {name!r} has the unknown type {kind}", position)
            packing = TENSOR_TYPES[kind]
            if shape[-1] % packing.block:
                reader.fail(f"tensor {name!r} has rows of {shape[-1]} numbers, {packing.name} needs a multiple of {packing.block}", position)
            num_bytes = prod(shape) // packing.block * packing.block_bytes
            if start + offset + num_bytes > len(self._bytes):
                reader.fail(f"tensor {name!r} ends at byte {start + offset + num_bytes}, the file at {len(self._bytes)}: it is cut short", position)
            if name in tensors:
                reader.fail(f"tensor {name!r} is there twice", position)
            tensors[name] = TensorInfo(name, shape, packing, start + offset, num_bytes)
        return tensors


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # nobody writes, but torch warns of memory that forbids it
    except FileNotFoundError as error:
        raise ModelUnavailable("ModelNotFound", f"{path}: there is no such file") from error
    except ValueError as error:  # an empty file cannot be mapped
        raise ModelUnavailable("ModelInvalid", f"{path}: not a GGUF file: it is empty") from error
    except OSError as error:
        raise ModelUnavailable("ModelUnreadable", f"{path}: cannot be read: {error.strerror}") from error


class _Reader:
    """A position in the file's header; every read is checked against the file's end."""

    def __init__(self, path: Path, data: mmap.mmap, position: int = 0) -> None:
        self.path = path
        self.data = data
        self.position = position
        self._size = len(data)

    def fail(self, cause: str, position: int | None = None) -> NoReturn:
        where = self.position if position is None else position
        raise ModelUnavailable("ModelInvalid", f"{self.path}: not a usable GGUF file: {cause} (at byte {where}); fetch it again")

    def head(self) -> tuple[int, int]:
        """How many tensors and how many keys there are."""
        if self.data[:4] != MAGIC:
            self.fail(f"it begins with {self.data[:4]!r}, not {MAGIC!r}")
        self.position = 4
        version = self.number(_U32)
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            self.fail("it is big-endian, which Octavo does not read" if swapped in VERSIONS else f"its version is {version}, Octavo reads 2 and 3", 4)
        return self.number(_U64), self.number(_U64)

    def number(self, form: struct.Struct) -> Any:
        try:
            (value,) = form.unpack_from(self.data, self.position)
        except struct.error:
            self.fail("it is cut short")
        self.position += form.size
        return value

    def checked(self, count: int, what: str) -> int:
        """`count`, which is wrong when there are not even that many bytes left."""
        if count > self._size - self.position:
            self.fail(f"it says it has {count} {what}, and has only {self._size - self.position} bytes left")
        return int(count)

    def string(self, limit: int | None = None) -> str:
        begin = self.position
        length = self.checked(self.number(_U64), "bytes of text")
        if limit is not None and length > limit:
            self.fail(f"it has a name of {length} bytes, {limit} are allowed", begin)
        raw = self.data[self.position : self.position + length]
        self.position += length
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.fail(f"text is not UTF-8: {error.reason}", begin)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, number of the type, offset in the data."""
        name = self.string(_MAX_KEY_BYTES)
        begin = self.position
        dimensions = self.number(_U32)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            self.fail(f"tensor {name!r} has {dimensions} dimensions, 1 to {_MAX_DIMENSIONS} are allowed", begin)
        shape = tuple(self.number(_U64) for _ in range(dimensions))[::-1]
        if not all(shape):
            self.fail(f"tensor {name!r} is empty: its shape is {list(shape)}", begin)
        return name, shape, self.number(_U32), self.number(_U64)

    def skip(self, kind: int) -> None:
        if kind in _SCALARS:
            self.number(struct.Struct("<" + _SCALARS[kind]))
        elif kind == _STRING:
            length = self.checked(self.number(_U64), "bytes of text")
            self.position += length
        elif kind == _ARRAY:
            self._skip_array()
        else:
            self.fail(f"it has a value of the unknown type {kind}", self.position - _U32.size)

    def _skip_array(self) -> None:
        begin = self.position
        kind, count = self.number(_U32), self.number(_U64)
        if kind in _SCALARS:
            self.position += self.checked(count * struct.calcsize("<" + _SCALARS[kind]), "bytes of numbers")
        elif kind == _STRING:
            self._skip_strings(self.checked(count, "strings"))
        else:
            self.fail(f"it has a list of values of the type {kind}, which Octavo does not read", begin)

    def _skip_strings(self, count: int) -> None:
        data, position, length = self.data, self.position, _U64.unpack_from
        try:
            for _ in range(count):
                position += 8 + length(data, position)[0]
        except (struct.error, OverflowError):
            self.fail("a list of strings is cut short")
        if position > self._size:
            self.fail("a list of strings is cut short")
        self.position = position

    def value(self, kind: int) -> Any:
        """The value at the position, which has been stepped over once and so is whole."""
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.number(struct.Struct("<" + _SCALARS[kind]))
        kind, count = self.number(_U32), self.number(_U64)
        if kind == _STRING:
            return self._strings(count)
        values = struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.data, self.position)
        return list(values)

    def _strings(self, count: int) -> list[str]:
        data, position, length = self.data, self.position, _U64.unpack_from
        values = []
        for index in range(count):
            begin = position + 8
            position = begin + length(data, position)[0]
            try:
                values.append(data[begin:position].decode())
            except UnicodeDecodeError as error:
                self.fail(f"entry {index} of a list is not UTF-8: {error.reason}", begin)
        return values


class _Metadata(Mapping[str, Any]):
    """Keys with the places of their values; a value is decoded when it is first asked for."""

    def __init__(self, reader: _Reader, count: int) -> None:
        self._path = reader.path
        self._data = reader.data
        self._places: dict[str, tuple[int, int]] = {}
        self._values: dict[str, Any] = {}
        for _ in range(reader.checked(count, "keys")):
            begin = reader.position
            key = reader.string(_MAX_KEY_BYTES)
            if key in self._places:
                reader.fail(f"the key {key!r} is there twice", begin)
            kind = reader.number(_U32)
            self._places[key] = (kind, reader.position)
            reader.skip(kind)

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            kind, position = self._places[key]
            self._values[key] = _Reader(self._path, self._data, position).value(kind)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
