"""Sources that are on this machine already, or never are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from octavo.loader.sources import resolve
from octavo_api.errors import ModelUnavailable
from octavo_api.source import ModelSource, parse_source


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with empty files."""

    def make(*names: str) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        return folder

    return make


def test_a_folder_and_a_file_are_what_they_are(place: Callable[..., Path]) -> None:
    folder = place("config.json", "model.safetensors", "extra.gguf")
    assert resolve(parse_source(str(folder))) == folder
    assert resolve(parse_source(f"file://{folder}")) == folder
    assert resolve(ModelSource("file", str(folder / "extra.gguf"))) == folder / "extra.gguf"


def test_a_folder_with_one_gguf_file_is_that_file(place: Callable[..., Path]) -> None:
    folder = place("model.gguf", "README.md")
    assert resolve(parse_source(str(folder))) == folder / "model.gguf"


def test_the_home_folder_is_known(place: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place("config.json")
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve(parse_source("~/model")) == folder


@pytest.mark.parametrize(
    ("names", "source", "reason", "text"),
    [
        ((), "{}", "ModelNotFound", "neither config.json nor a GGUF file"),
        (("a.gguf", "b.gguf"), "{}", "ModelInvalid", "name one: a.gguf, b.gguf"),
        (("weights.bin",), "{}/weights.bin", "ModelInvalid", "must be a GGUF file or a folder"),
        ((), "{}/nothing", "ModelNotFound", "there is no such file or folder; check the path"),
        ((), "Qwen/Qwen3-0.6B", "ModelNotFound", "write hf://Qwen/Qwen3-0.6B"),
        ((), "pvc://weights/qwen", "ModelNotFound", "the operator mounts it"),
    ],
)
def test_what_is_not_there_is_named(place: Callable[..., Path], names: tuple[str, ...], source: str, reason: str, text: str) -> None:
    folder = place(*names)
    with pytest.raises(ModelUnavailable) as refused:
        resolve(parse_source(source.format(folder)))
    assert refused.value.reason == reason
    assert text in str(refused.value)
