"""Plain objects into types, as the API server reads them, with the field's path and its value in every refusal."""

import json
import re
from typing import Any, TypeVar

import msgspec

from octavo_api.errors import InvalidResource

T = TypeVar("T")


def plain(spec: Any) -> Any:
    """A spec as the API server reads it: null is as good as absent, and an amount may be a whole number."""
    spec = _without_nulls(spec)
    resources = spec.get("resources") if isinstance(spec, dict) else None
    if not isinstance(resources, dict):
        return spec
    return spec | {"resources": {name: str(value) if type(value) is int else value for name, value in resources.items()}}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return value


def convert(value: Any, kind: type[T], path: str) -> T:
    """
    Raises:
        InvalidResource: with the path, below `path`, of the field that is wrong, and its value.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        where = where.rstrip("`")
        if absent := re.fullmatch(r"Object missing required field `(\w+)`", text):
            raise InvalidResource(f"{path}{where}.{absent[1]}: is missing") from error
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text):
            raise InvalidResource(f"{path}{where}.{unknown[1]}: there is no such field") from error
        shown = json.dumps(value_at(value, where), default=str)
        raise InvalidResource(f"{path}{where}: is {shown if len(shown) <= 200 else shown[:200] + '…'}; {text}") from error


def value_at(value: Any, place: str) -> Any:
    """`place` as in `.aliases[1]` or `spec.model.source`."""
    for name in re.findall(r"\w+", place):
        value = value[int(name) if isinstance(value, list | tuple) else name]
    return value
