"""What the engine's tests share: real models, and tiny GGUF files of any shape."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import real_models

# As in the engine process: read when the first test imports torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, a GGUF file: Llama architecture, chat template."""
    return real_models.smollm2()


@pytest.fixture(scope="session")
def qwen2_coder() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct, a GGUF file: Qwen2 architecture, chat template."""
    return real_models.qwen2_coder()


@pytest.fixture(scope="session")
def gemma3_270m() -> Path:
    """Gemma 3 270M, a GGUF file: a base model with sliding and full attention."""
    return real_models.gemma3_270m()


GgufMaker = Callable[..., Path]
_OTHER_KEYS = ("general.", "tokenizer.", "split.")


@pytest.fixture
def make_gguf(tmp_path: Path) -> GgufMaker:
    """Writes GGUF files: `make_gguf("llama", {"block_count": 2}, {"token_embd.weight": array})`.

    Metadata keys get the architecture before them, but for general ones and the tokenizer's. Arrays are written as they are (float32, float16) or,
    given as a pair (array, gguf.GGMLQuantizationType), packed; with an array of bytes, which is packed already.
    """

    def make(
        architecture: str,
        metadata: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray | tuple[np.ndarray, gguf.GGMLQuantizationType]],
        name: str = "model.gguf",
    ) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in metadata.items():
            _add(writer, key if key.startswith(_OTHER_KEYS) else f"{architecture}.{key}", value)
        for tensor, content in tensors.items():
            if isinstance(content, tuple):
                array, packing = content
                packed = array if array.dtype == np.uint8 else gguf.quants.quantize(array, packing)
                writer.add_tensor(tensor, packed, raw_dtype=packing)
            else:
                writer.add_tensor(tensor, content)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return make


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
