"""The real models' tokenizers, ours and those that transformers makes of the same files."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from tokenizers import normalizers, pre_tokenizers

from octavo.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def real_tokenizer(request: pytest.FixtureRequest) -> Callable[[str], Tokenizer]:
    """Ours, by the name of the model's fixture."""
    loaded: dict[str, Tokenizer] = {}

    def load(model: str) -> Tokenizer:
        if model not in loaded:
            loaded[model] = Tokenizer.from_path(request.getfixturevalue(model))
        return loaded[model]

    return load


@pytest.fixture(scope="session")
def reference_tokenizer(request: pytest.FixtureRequest) -> Callable[[str], tokenizers.Tokenizer]:
    """What transformers makes of the same GGUF file, mended where the file lost what the model's tokenizer.json has.

    transformers takes half a minute for one, so what it makes is kept in pytest's cache.
    """
    kept = request.config.cache.mkdir(f"transformers-{transformers.__version__}")
    loaded: dict[str, tokenizers.Tokenizer] = {}

    def load(model: str) -> tokenizers.Tokenizer:
        if model not in loaded:
            file = kept / f"{model}.json"
            if not file.exists():
                gguf: Path = request.getfixturevalue(model)
                transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).backend_tokenizer.save(str(file))
            loaded[model] = _mended(model, tokenizers.Tokenizer.from_file(str(file)))
        return loaded[model]

    return load


def _mended(model: str, backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    if model == "qwen2_coder":
        backend.normalizer = normalizers.NFC()
    elif model == "smollm2":
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)])
    return backend


@pytest.fixture
def gguf_tokenizer(make_gguf: Callable[..., Path]) -> Callable[..., Tokenizer]:
    """A tokenizer out of a GGUF file that is written with these keys and tokenizer keys: `gguf_tokenizer("llama", model="gpt2", tokens=[…])`."""

    def make(architecture: str, extra: Mapping[str, Any] | None = None, **keys: Any) -> Tokenizer:
        metadata = {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | dict(extra or {})
        return Tokenizer.from_path(make_gguf(architecture, metadata, {}))

    return make
