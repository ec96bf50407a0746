"""Where Python packages come from on this machine: what pip's own configuration says, read the way pip reads it.

So a mirror that serves pip serves models too, with nothing more to set up: variables (`PIP_INDEX_URL` …) win over
`PIP_CONFIG_FILE`, that over the environment's, the user's and the machine's `pip.conf`.
"""

import configparser
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from octavo_api.errors import ModelUnavailable

DEFAULT_INDEX = "https://pypi.org/simple"

_SECTIONS = ("global", "download")
_TRUE = ("1", "true", "yes", "on", "y", "t")


class PipSettings(Struct, frozen=True):
    """Addresses may hold user and password. `find_links` are folders or pages of wheels; `timeout` in seconds."""

    indexes: tuple[str, ...] = (DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    trusted_hosts: frozenset[str] = frozenset()
    cert: str = ""
    proxy: str = ""
    timeout: float = 15.0


def read_pip_settings(environ: Mapping[str, str] = os.environ) -> PipSettings:
    """Raises ModelUnavailable `InvalidConfiguration` when a file or value cannot be read."""
    values: dict[str, str] = {}
    for path in _files(environ):
        values.update(_read(path))
    prefix = "PIP_"
    values.update({_key(name.removeprefix(prefix)): value for name, value in environ.items() if name.startswith(prefix) and value})
    indexes = (values.get("index-url", DEFAULT_INDEX), *values.get("extra-index-url", "").split())
    if values.get("no-index", "").lower() in _TRUE:
        indexes = ()
    return PipSettings(
        indexes=tuple(index.rstrip("/") for index in indexes),
        find_links=tuple(values.get("find-links", "").split()),
        trusted_hosts=frozenset(values.get("trusted-host", "").split()),
        cert=values.get("cert", ""),
        proxy=values.get("proxy", ""),
        timeout=_seconds(values.get("timeout") or values.get("default-timeout") or "15"),
    )


def _files(environ: Mapping[str, str]) -> list[Path]:
    """Configuration files, the strongest last."""
    named = environ.get("PIP_CONFIG_FILE", "")
    if named == os.devnull:
        return []
    home = Path(environ.get("HOME") or "~").expanduser()
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    folders = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
    machine = [*(Path(folder) / "pip/pip.conf" for folder in reversed(folders)), Path("/etc/pip.conf")]
    user = [home / ".pip/pip.conf", config_home / "pip/pip.conf"]
    return [*machine, *user, Path(sys.prefix) / "pip.conf", *([Path(named)] if named else [])]


def _read(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        cause = str(error).splitlines()[0]
        raise ModelUnavailable("InvalidConfiguration", f"pip's configuration cannot be read: {cause}; mend {path} or remove it") from error
    return {_key(name): value for section in _SECTIONS if parser.has_section(section) for name, value in parser.items(section)}


def _key(name: str) -> str:
    return name.lower().replace("_", "-")


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ModelUnavailable("InvalidConfiguration", f"pip's timeout: is {text!r}, must be seconds; mend PIP_DEFAULT_TIMEOUT or pip.conf") from error
