"""Models from a hub that speaks the two endpoints that are used, reached through HF_ENDPOINT as the hub's client reads it.

The client reads its variables when it is imported, so each test asks a process of its own.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": os.urandom(200_000),
    "README.md": b"# Read me",
    "pytorch_model.bin": b"not wanted",
    "onnx/model.safetensors": b"not wanted either",
}
NEEDED = ["config.json", "model.safetensors", "source.json", "tokenizer.json"]


@pytest.fixture
def hub(mirror: Any) -> Callable[..., dict[str, str]]:
    """Puts a repository `tiny/model` on the hub and returns the paths of its files."""

    def put(files: dict[str, bytes] = FILES, *, commit: str = COMMIT, revision: str = "main") -> dict[str, str]:
        siblings = []
        paths = {}
        for name, content in files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
            if name.endswith((".safetensors", ".gguf", ".bin")):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
            paths[name] = f"/tiny/model/resolve/{commit}/{name}"
            mirror.files[paths[name]] = content
        body = json.dumps({"id": "tiny/model", "modelId": "tiny/model", "sha": commit, "siblings": siblings, "tags": []}).encode()
        mirror.pages["/api/models/tiny/model" + ("" if revision == "main" else f"/revision/{revision}")] = ("application/json", body)
        return paths

    return put


@pytest.fixture
def fetch(mirror: Any, resolve_elsewhere: Any, tmp_path: Path) -> Callable[..., str]:
    """What another process says of an hf:// source: a path, or `reason: message`."""

    def run(source: str = "hf://tiny/model", **environment: str) -> str:
        settings = {"HF_ENDPOINT": mirror.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
        answer: str = resolve_elsewhere(source, **settings).communicate(timeout=100)[0].strip()
        return answer

    return run


def test_the_needed_files_come_and_are_kept(hub: Any, fetch: Any, mirror: Any) -> None:
    paths = hub()
    elsewhere = "/store/signed?signature=abc"
    mirror.files["/store/signed"] = mirror.files.pop(paths["model.safetensors"])
    mirror.redirects[paths["model.safetensors"]] = f"http://localhost:{mirror.server_port}{elsewhere}"
    mirror.cuts["/store/signed"] = [50_000]
    found = Path(fetch(HF_TOKEN="hf_secret", NO_PROXY="127.0.0.1,localhost"))
    assert found.name == COMMIT
    assert sorted(path.name for path in found.iterdir()) == NEEDED
    assert (found / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert mirror.fetched("/store/signed") == ["", "bytes=50000-"]
    assert mirror.headers_of[paths["config.json"]]["Authorization"] == "Bearer hf_secret"
    assert "Authorization" not in mirror.headers_of["/store/signed"], "the token is for the hub alone"
    mirror.requests.clear()
    assert fetch(f"hf://tiny/model@{COMMIT}") == str(found)
    assert not mirror.requests, "a commit that is here needs no network"


def test_without_the_hub_the_copy_from_an_earlier_time_serves(hub: Any, fetch: Any, mirror: Any) -> None:
    hub()
    found = fetch()
    mirror.pages.clear()
    mirror.statuses["/api/models/tiny/model"] = [503] * 9
    assert fetch() == found
    assert fetch(HF_HUB_OFFLINE="1") == found
    assert fetch("hf://tiny/other", HF_HUB_OFFLINE="1").startswith("SourceUnreachable: hf://tiny/other: the hub cannot be reached")


def test_a_revision_is_asked_for_and_a_new_commit_is_another_folder(hub: Any, fetch: Any) -> None:
    hub()
    hub(FILES | {"config.json": b'{"model_type": "qwen3"}'}, commit="f" * 40, revision="v2")
    first, second = fetch(), fetch("hf://tiny/model@v2")
    assert (Path(first).name, Path(second).name) == (COMMIT, "f" * 40)
    assert (Path(second) / "config.json").read_bytes() == b'{"model_type": "qwen3"}'


def test_a_snapshot_in_the_hubs_own_cache_is_used(hub: Any, fetch: Any, mirror: Any, tmp_path: Path) -> None:
    paths = hub()
    snapshot = tmp_path / "hf/hub/models--tiny--model/snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in set(NEEDED) - {"source.json"}:
        (snapshot / name).write_bytes(FILES[name])
    assert fetch() == str(snapshot)
    assert not any(mirror.fetched(path) for path in paths.values())
    (snapshot / "model.safetensors").unlink()
    assert fetch() != str(snapshot)


def test_a_repository_with_one_gguf_file_is_that_file(hub: Any, fetch: Any) -> None:
    hub({"model.Q4_K_M.gguf": b"GGUF", "README.md": b""})
    assert Path(fetch()).name == "model.Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("files", "answer"),
    [
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "ModelInvalid: hf://tiny/model: has several GGUF files, download one and give its path: a.gguf, b.gguf"),
        ({"config.json": b"{}", "pytorch_model.bin": b""}, "ModelInvalid: hf://tiny/model: has neither config.json with model*.safetensors nor a GGUF file"),
    ],
)
def test_a_repository_without_one_model_is_refused(hub: Any, fetch: Any, files: dict[str, bytes], answer: str) -> None:
    hub(files)
    assert fetch().startswith(answer)


def test_spoilt_files_are_refused(hub: Any, fetch: Any, mirror: Any) -> None:
    paths = hub()
    mirror.files[paths["config.json"]] = b"x" * len(FILES["config.json"])
    assert fetch().startswith("ChecksumMismatch: hf://tiny/model: git's hash of config.json")
    hub()
    mirror.files[paths["model.safetensors"]] = b"x" * 200_000
    assert fetch().startswith("ChecksumMismatch: model.safetensors: sha256 is")


def test_what_the_hub_refuses_is_named(hub: Any, fetch: Any, mirror: Any) -> None:
    paths = hub()
    mirror.statuses[paths["config.json"]] = [403]
    gated = fetch()
    assert gated.startswith("GatedModelDenied: hf://tiny/model: is gated")
    assert "HF_TOKEN" in gated
    mirror.pages["/api/models/tiny/missing"] = 404
    assert fetch("hf://tiny/missing").startswith("ModelNotFound: hf://tiny/missing: the hub")
    assert fetch("hf://tiny/model", HF_ENDPOINT="http://127.0.0.1:1").startswith("SourceUnreachable: hf://tiny/model: the hub cannot be reached")


def test_codes_of_the_hub_tell_gates_revisions_and_names_apart(hub: Any, fetch: Any, mirror: Any) -> None:
    for code, source, reason in [
        ("GatedRepo", "hf://tiny/gated", "GatedModelDenied"),
        ("RevisionNotFound", "hf://tiny/known@nothing", "ModelNotFound"),
        ("RepoNotFound", "hf://tiny/unknown", "ModelNotFound"),
    ]:
        name, _, revision = source.removeprefix("hf://").partition("@")
        path = f"/api/models/{name}" + (f"/revision/{revision}" if revision else "")
        mirror.codes[path] = (403 if code == "GatedRepo" else 404, code)
        assert fetch(source).startswith(f"{reason}: {source}:")


def test_a_killed_download_keeps_the_files_that_were_whole(hub: Any, fetch: Any, mirror: Any, resolve_elsewhere: Any, eventually: Any, tmp_path: Path) -> None:
    paths = hub()
    release = threading.Event()
    mirror.stalls[paths["model.safetensors"]] = (100_000, release)
    process = resolve_elsewhere("hf://tiny/model", HF_ENDPOINT=mirror.url, HF_HOME=str(tmp_path / "hf"))
    eventually(lambda: sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.safetensors.download")) >= 50_000)
    process.kill()
    process.wait()
    release.set()
    mirror.stalls.clear()
    found = Path(fetch())
    assert (found / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert len(mirror.fetched(paths["config.json"])) == 1
    assert mirror.fetched(paths["model.safetensors"])[1].startswith("bytes=")
