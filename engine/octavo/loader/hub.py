"""Models from the Hugging Face Hub: the hub's client says what there is, the files come as every other source's do.

A copy in Hugging Face's own cache is used where it lies. `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` mean what they
mean there.
"""

import hashlib
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import httpx
from huggingface_hub import HfApi, get_token, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from msgspec import Struct

from octavo.loader import cache
from octavo.loader.download import Refused, Remote, download
from octavo_api import __version__
from octavo_api.errors import ModelUnavailable
from octavo_api.source import ModelSource

_BESIDE = {
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
}
_SAFETENSORS = re.compile(r"model[\w.-]*\.safetensors(\.index\.json)?")
_GGUF = re.compile(r"[\w.+-]+\.gguf")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_SECONDS = 30.0
_NETWORK_ERRORS: tuple[type[Exception], ...] = (OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))
"""The hub's client has changed its HTTP library more than once; its own error derives from that of the one in use."""

_log = logging.getLogger(__name__)


class _File(Struct, frozen=True):
    """One file of a repository: large ones have a sha256, small ones git's hash."""

    name: str
    size: int
    sha256: str
    git_hash: str


class _Snapshot(Struct, frozen=True):
    """The files of a commit that are needed; `model` is the one to load, "" for the folder."""

    commit: str
    files: tuple[_File, ...]
    model: str


def fetch(source: ModelSource, folder: Path, progress: cache.Progress) -> Path:
    """The model of an `hf://` source; each commit has a folder of its own in `folder`.

    Raises:
        ModelUnavailable: with what keeps it from being fetched.
    """
    if _COMMIT.fullmatch(source.revision):
        found = cache.stored(folder / source.revision)
        if found is not None:
            return found
    try:
        snapshot = _look_up(source)
    except ModelUnavailable as error:
        found = _kept(source, folder) if error.reason == "SourceUnreachable" else None
        if found is None:
            raise
        _log.warning("%s: using the copy from an earlier time: %s", source, error)
        return found
    found = _of_hub_cache(source, snapshot)
    if found is None:
        found = cache.fetch(folder / snapshot.commit, lambda filling: _fill(source, snapshot, filling, progress), progress)
        _ref(source, folder).write_text(snapshot.commit)
    return found


def _look_up(source: ModelSource) -> _Snapshot:
    try:
        info = HfApi().model_info(source.location, revision=source.revision or None, files_metadata=True, timeout=_TIMEOUT_SECONDS)
    except GatedRepoError as error:
        raise _gated(source) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _unknown(source) from error
    except RevisionNotFoundError as error:
        text = f"{source}: the repository has no revision {source.revision!r}; name a branch, tag or commit that it has"
        raise ModelUnavailable("ModelNotFound", text) from error
    except HfHubHTTPError as error:
        if error.response.status_code == httpx.codes.NOT_FOUND:
            raise _unknown(source) from error
        if error.response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise _denied(source, error.response.status_code) from error
        raise ModelUnavailable("SourceUnreachable", f"{source}: the hub answers {error.response.status_code}; try again later") from error
    except _NETWORK_ERRORS as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelUnavailable("SourceUnreachable", f"{source}: the hub cannot be reached: {cause}; check the network and HF_ENDPOINT") from error
    siblings = info.siblings or []
    files = [_File(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else "", "" if each.lfs else each.blob_id or "") for each in siblings]
    return _needed(source, info.sha or "", files)


def _needed(source: ModelSource, commit: str, files: Iterable[_File]) -> _Snapshot:
    if not _COMMIT.fullmatch(commit):
        raise ModelUnavailable("SourceUnreachable", f"{source}: the hub names no commit; check HF_ENDPOINT")
    by_name = {file.name: file for file in files}
    weights = [file for name, file in by_name.items() if _SAFETENSORS.fullmatch(name)]
    if weights and "config.json" in by_name:
        return _Snapshot(commit, (*(by_name[name] for name in sorted(_BESIDE & by_name.keys())), *weights), "")
    gguf = [file for name, file in by_name.items() if _GGUF.fullmatch(name)]
    if len(gguf) == 1:
        return _Snapshot(commit, tuple(gguf), gguf[0].name)
    if gguf:
        names = ", ".join(file.name for file in gguf)
        raise ModelUnavailable("ModelInvalid", f"{source}: has several GGUF files, download one and give its path: {names}")
    raise ModelUnavailable("ModelInvalid", f"{source}: has neither config.json with model*.safetensors nor a GGUF file; Octavo reads no others")


def _fill(source: ModelSource, snapshot: _Snapshot, filling: cache.Filling, progress: cache.Progress) -> cache.Record:
    total = sum(file.size for file in snapshot.files)
    filling.expect(total)
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    stored = []
    before = 0
    with httpx.Client(timeout=_TIMEOUT_SECONDS, follow_redirects=True, headers={"User-Agent": f"octavo/{__version__}"}) as client:
        for file in snapshot.files:
            remote = Remote(file.name, hf_hub_url(source.location, file.name, revision=snapshot.commit), file.sha256, file.size, headers=headers)
            try:
                digest = download(client, remote, filling.path / file.name, _shifted(progress, before, total))
            except Refused as error:
                raise _refused(source, file.name, error) from error
            _check_small(source, file, filling.path / file.name)
            stored.append(cache.StoredFile(file.name, (filling.path / file.name).stat().st_size, digest))
            before += file.size
    return cache.Record(source=f"hf://{source.location}@{snapshot.commit}", model=snapshot.model, files=tuple(stored))


def _shifted(progress: cache.Progress, before: int, total: int) -> cache.Progress:
    return lambda done, _: progress(before + done, total)


def _check_small(source: ModelSource, file: _File, path: Path) -> None:
    """Compares a file that has no sha256 on the hub with git's hash of it."""
    if not file.git_hash:
        return
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != file.git_hash:
        path.unlink()
        raise ModelUnavailable("ChecksumMismatch", f"{source}: git's hash of {file.name} is {found}, must be {file.git_hash}; removed, try again")


def _refused(source: ModelSource, name: str, error: Refused) -> ModelUnavailable:
    if error.code == "GatedRepo" or error.status == httpx.codes.FORBIDDEN:
        return _gated(source)
    if error.status == httpx.codes.UNAUTHORIZED:
        return _denied(source, error.status)
    return ModelUnavailable("ModelNotFound", f"{source}: the hub answers {error.status} to {name}, which it lists; try again later")


def _unknown(source: ModelSource) -> ModelUnavailable:
    text = f"{source}: the hub has no such repository, or it is private; check the name, and HF_TOKEN if it is private"
    return ModelUnavailable("ModelNotFound", text)


def _denied(source: ModelSource, status: int) -> ModelUnavailable:
    return ModelUnavailable("SourceDenied", f"{source}: the hub answers {status}; check HF_TOKEN and what it may read")


def _gated(source: ModelSource) -> ModelUnavailable:
    text = f"{source}: is gated and this token, or none, has no access; accept its terms on the hub and set HF_TOKEN to a token of that account"
    return ModelUnavailable("GatedModelDenied", text)


def _of_hub_cache(source: ModelSource, snapshot: _Snapshot) -> Path | None:
    """The snapshot in Hugging Face's own cache, when every file is there."""
    path = None
    for file in snapshot.files:
        found = try_to_load_from_cache(source.location, file.name, revision=snapshot.commit)
        if not isinstance(found, str) or Path(found).stat().st_size != file.size:
            return None
        path = Path(found)
    return None if path is None else path.parent / snapshot.model


def _kept(source: ModelSource, folder: Path) -> Path | None:
    """What an earlier time has left of this revision, in our cache or Hugging Face's."""
    ref = _ref(source, folder)
    if ref.is_file():
        found = cache.stored(folder / ref.read_text())
        if found is not None:
            return found
    try:
        snapshot = Path(snapshot_download(source.location, revision=source.revision or None, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    if (snapshot / "config.json").is_file() and any(snapshot.glob("*.safetensors")):
        return snapshot
    gguf = list(snapshot.glob("*.gguf"))
    return gguf[0] if len(gguf) == 1 else None


def _ref(source: ModelSource, folder: Path) -> Path:
    return folder / ("ref-" + quote(source.revision or "main", safe=""))
