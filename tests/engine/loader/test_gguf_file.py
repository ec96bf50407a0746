"""The header of a GGUF file: what is in it, how fast, and what becomes of one that is broken."""

import contextlib
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.loader.gguf import GgufCheckpoint
from octavo.loader.gguf_file import TENSOR_TYPES, GgufFile
from octavo_api.errors import ModelUnavailable

MakeGguf = Callable[..., Path]

KEYS = {
    "general.name": "näme 🦙",
    "block_count": 1,
    "rope.freq_base": 0.5,
    "attention.head_count": 2,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "context_length": 64,
    "feed_forward_length": 8,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["a", "", "Ġ🙂"],
    "tokenizer.ggml.scores": [0.5, -1.0],
    "tokenizer.ggml.token_type": [1, -3, 6],
}
SHAPES = {"token_embd": (16, 8), "output_norm": (8,), "blk.0.attn_q": (8, 8), "blk.0.attn_k": (8, 8), "blk.0.ffn_up": (8, 32)}
TENSORS: dict[str, Any] = {f"{name}.weight": np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in SHAPES.items()}
TENSORS["blk.0.ffn_up.weight"] = (TENSORS["blk.0.ffn_up.weight"], gguf.GGMLQuantizationType.Q8_0)


@pytest.fixture
def small(make_gguf: MakeGguf) -> Path:
    return make_gguf("llama", KEYS, TENSORS)


def test_metadata_are_plain_values(small: Path) -> None:
    found = GgufFile(small).metadata
    assert found["general.architecture"] == "llama"
    for key, value in KEYS.items():
        name = key if key.startswith(("general.", "tokenizer.")) else f"llama.{key}"
        assert found[name] == pytest.approx(value) if isinstance(value, float) else found[name] == value
        assert type(found[name]) is type(value)
    assert found.get("llama.no_such_key") is None


def test_the_directory_is_that_of_the_gguf_package(small: Path) -> None:
    ours = GgufFile(small)
    theirs = GGUFReader(small).tensors
    assert list(ours.tensors) == [tensor.name for tensor in theirs]
    for tensor in theirs:
        info = ours.tensors[tensor.name]
        assert (list(info.shape), info.type.name) == (tensor.shape.tolist()[::-1], tensor.tensor_type.name)
        assert (info.offset, info.num_bytes) == (tensor.data_offset, tensor.n_bytes)
        assert bytes(ours.data(tensor.name)) == tensor.data.tobytes()


def test_every_packing_has_the_sizes_of_the_gguf_package() -> None:
    for number, packing in TENSOR_TYPES.items():
        assert gguf.GGMLQuantizationType(number).name == packing.name
        assert gguf.constants.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (packing.block, packing.block_bytes)


def test_another_alignment_is_kept(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "wide.gguf", "llama")
    writer.add_custom_alignment(256)
    for name in ("a", "b"):
        writer.add_tensor(name, np.full(3, ord(name), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "wide.gguf")
    assert [info.offset % 256 for info in file.tensors.values()] == [0, 0]
    assert file.data("b") == struct.pack("<3f", *[ord("b")] * 3)


def test_a_large_vocabulary_is_stepped_over_fast(make_gguf: MakeGguf) -> None:
    """Measured in seconds of this thread, so that other work on the machine does not count."""
    words = [f"word-{number}" for number in range(150_000)]
    path = make_gguf("llama", KEYS | {"tokenizer.ggml.tokens": words, "tokenizer.ggml.merges": words}, TENSORS)
    begin = time.thread_time()
    file = GgufFile(path)
    assert time.thread_time() - begin < 0.3
    assert file.metadata["tokenizer.ggml.tokens"] == words


def test_no_torch_and_no_numpy_are_needed(small: Path) -> None:
    program = "import sys, pathlib, octavo.loader.gguf_file as it; it.GgufFile(pathlib.Path(sys.argv[1])); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program, str(small)], stdout=subprocess.PIPE, check=True).stdout == b"set()\n"


def written(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def text(value: str) -> bytes:
    return u64(len(value)) + value.encode()


ONE_KEY = (b"GGUF", u32(3), u64(0), u64(1))


@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ((), "it is empty"),
        ((b"PK\3\4 a zip",), "it begins with b'PK\\x03\\x04', not b'GGUF' (at byte 0)"),
        ((b"GGUF", u32(1), bytes(16)), "its version is 1, Octavo reads 2 and 3 (at byte 4)"),
        ((b"GGUF", b"\0\0\0\3", bytes(16)), "big-endian"),
        ((b"GGUF", u32(3), u64(0)), "it is cut short (at byte 16)"),
        ((b"GGUF", u32(3), u64(0), u64(1 << 60), bytes(8)), f"it says it has {1 << 60} keys, and has only 8 bytes left"),
        ((*ONE_KEY, u64(1 << 60), b"key"), f"it says it has {1 << 60} bytes of text"),
        ((*ONE_KEY, text("key"), u32(99)), "a value of the unknown type 99"),
        ((*ONE_KEY, text("key"), u32(9), u32(9), u64(1)), "a list of values of the type 9"),
        ((*ONE_KEY, text("key"), u32(9), u32(8), u64(3), u64(1), b"a", u64(7)), "a list of strings is cut short"),
        ((*ONE_KEY, text("key"), u32(9), u32(8), u64(2), u64((1 << 64) - 1), b"a"), "a list of strings is cut short"),
        ((*ONE_KEY, u64(2), b"\xff\xff", u32(4), u32(1)), "text is not UTF-8"),
        ((b"GGUF", u32(3), u64(0), u64(2), *[text("key") + u32(4) + u32(1)] * 2), "the key 'key' is there twice"),
        ((*ONE_KEY, text("general.alignment"), u32(4), u32(3)), "general.alignment is 3, must be a power of two"),
        ((b"GGUF", u32(3), u64(1), u64(0), text("t"), u32(5)), "tensor 't' has 5 dimensions"),
        ((b"GGUF", u32(3), u64(1), u64(0), text("t"), u32(1), u64(0), u32(0), u64(0)), "tensor 't' is empty"),
        ((b"GGUF", u32(3), u64(1), u64(0), text("t"), u32(1), u64(8), u32(77), u64(0)), "the unknown type 77"),
        ((b"GGUF", u32(3), u64(1), u64(0), text("t"), u32(1), u64(33), u32(8), u64(0)), "Q8_0 needs a multiple of 32"),
        ((b"GGUF", u32(3), u64(1), u64(0), text("t"), u32(1), u64(8), u32(0), u64(0)), "it is cut short"),
    ],
)
def test_a_broken_file_is_refused_with_place_and_cause(tmp_path: Path, parts: tuple[bytes, ...], cause: str) -> None:
    path = written(tmp_path / "broken.gguf", *parts)
    with pytest.raises(ModelUnavailable) as refused:
        GgufFile(path)
    assert refused.value.reason == "ModelInvalid"
    assert cause in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_token_that_is_no_text_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "broken.gguf", *ONE_KEY, text("tokens"), u32(9), u32(8), u64(2), text("a"), u64(1), b"\xff")
    metadata = GgufFile(path).metadata
    with pytest.raises(ModelUnavailable, match="entry 1 of a list is not UTF-8"):
        metadata["tokens"]


def test_what_is_not_there_is_no_invalid_file(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as refused:
        GgufFile(tmp_path / "nothing.gguf")
    assert refused.value.reason == "ModelNotFound"


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_spoilt_file_does_harm(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever is changed, cut or put in: it is read, or refused with ModelUnavailable."""
    content = bytearray(small.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(content) - 1, 1400)))
        patch = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([bytes(8), b"\xff" * 8, u64(1 << 40), u32(9) + u32(9), b"\0"])))
        kind = data.draw(st.sampled_from(["replace", "insert", "cut"]))
        if kind == "replace":
            content[at : at + len(patch)] = patch
        elif kind == "insert":
            content[at:at] = patch
        else:
            del content[at:]
            break
        content = content or bytearray(b"G")
    path = written(tmp_path / "spoilt.gguf", bytes(content))
    with contextlib.suppress(ModelUnavailable):
        dict(GgufFile(path).metadata)
        list(GgufCheckpoint(path).tensors())
