"""JSON schemas of msgspec types in the dialect that a CRD allows: no references, no unions with null, everything bounded.

The API server prices a CEL rule by the largest value that its schema admits, so a string, list or map without a
maximum is an error here instead of a refused CRD later.
"""

from typing import Any

import msgspec

Schema = dict[str, Any]
_DROPPED = ("title", "additionalProperties")


class Unbounded(ValueError):
    """A field has no maximum; give its type one in Meta."""


def structural(kind: type[msgspec.Struct], *, defaults: bool = True) -> Schema:
    """The schema of `kind`, with every reference put in its place.

    Args:
        defaults: whether the API server shall fill in what a manifest leaves out.

    Raises:
        Unbounded: naming the field.
    """
    (root,), definitions = msgspec.json.schema_components([kind], ref_template="{name}")
    schema = _plain(root, definitions, defaults)
    _check_bounds(schema, "")
    return schema


def _plain(schema: Schema, definitions: dict[str, Schema], defaults: bool) -> Schema:
    schema = dict(schema)
    if "anyOf" in schema:
        (only,) = [variant for variant in schema.pop("anyOf") if variant != {"type": "null"}]
        schema = only | schema
    if "$ref" in schema:
        schema = definitions[schema.pop("$ref")] | schema
        return _plain(schema, definitions, defaults)
    for name in _DROPPED:
        schema.pop(name, None)
    if not defaults or schema.get("default") in (None, (), []):
        schema.pop("default", None)
    if not schema.get("required", True):
        del schema["required"]
    if "enum" in schema:
        schema.setdefault("type", "string")
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type")
        schema["x-kubernetes-int-or-string"] = True
    for limit in ("minimum", "maximum"):
        exclusive = "exclusive" + limit.capitalize()
        if exclusive in schema:
            schema |= {limit: schema[exclusive], exclusive: True}
    if "properties" in schema:
        schema["properties"] = {name: _plain(value, definitions, defaults) for name, value in schema["properties"].items()}
    if "items" in schema:
        schema["items"] = _plain(schema["items"], definitions, defaults)
    order = ("description", "type", "default")
    return {key: schema[key] for key in (*order, *(key for key in schema if key not in order)) if key in schema}


def _check_bounds(schema: Schema, path: str) -> None:
    kind = schema.get("type")
    needed = {"string": ("maxLength", "enum"), "array": ("maxItems",), None: ("maxLength",)}
    if kind == "object" and "properties" not in schema:
        needed["object"] = ("maxProperties",)
    if kind in needed and not any(bound in schema for bound in needed[kind]):
        raise Unbounded(f"{path or 'the resource'}: {kind} without {' or '.join(needed[kind])}")
    for name, value in schema.get("properties", {}).items():
        _check_bounds(value, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        _check_bounds(schema["items"], f"{path}[]")
