"""What the API server does with a manifest, done here: defaults, the CRD's schema, unknown fields, CEL rules."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import cel
import jsonschema
import pytest

from tools import crd

Json = dict[str, Any]


def with_defaults(value: Any, schema: Json) -> Any:
    """As the API server fills in: null is as good as absent, a default may open an object that has defaults of its own."""
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    filled = {name: inner for name, inner in value.items() if inner is not None}
    for name, inner in schema["properties"].items():
        if name not in filled and "default" in inner:
            filled[name] = copy.deepcopy(inner["default"])
        if name in filled:
            filled[name] = with_defaults(filled[name], inner)
    return filled


def complaints(manifest: Json) -> Iterator[str]:
    """Each begins with the path of what is wrong."""
    schema = crd.schema()
    filled = with_defaults(manifest, schema)
    yield from unknown(filled, schema, "")
    found = list(jsonschema.Draft4Validator(for_jsonschema(schema)).iter_errors(filled))
    for error in found:
        yield f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
    if not found:
        yield from broken_rules(filled, schema, "")


def unknown(value: Any, schema: Json, path: str) -> Iterator[str]:
    for name, inner in value.items() if isinstance(value, dict) and "properties" in schema else ():
        here = f"{path}.{name}".lstrip(".")
        if name not in schema["properties"]:
            yield f"{here}: unknown field"
        else:
            yield from unknown(inner, schema["properties"][name], here)


def for_jsonschema(schema: Json) -> Json:
    """An amount may be a whole number or text, for which JSON schema has another word."""
    if schema.get("x-kubernetes-int-or-string"):
        return schema | {"type": ["integer", "string"]}
    if "properties" in schema:
        return schema | {"properties": {name: for_jsonschema(value) for name, value in schema["properties"].items()}}
    return schema


def broken_rules(value: Any, schema: Json, path: str) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if not cel.evaluate(rule["rule"], {"self": value}):
            yield f"{path}{rule.get('fieldPath', '')}: {rule['message']}".lstrip(".: ")
    for name, inner in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            yield from broken_rules(value[name], inner, f"{path}.{name}".lstrip("."))


class ApiServer:
    """What the real one makes of an LLMDeployment, as far as the CRD decides it."""

    def refuses(self, manifest: Json) -> list[str]:
        """Why, each with the path of what is wrong; nothing where it accepts."""
        return list(complaints(manifest))

    def stored(self, manifest: Json) -> Json:
        """The object with its defaults."""
        return dict(with_defaults(manifest, crd.schema()))


@pytest.fixture(scope="session")
def api_server() -> ApiServer:
    return ApiServer()


@pytest.fixture(scope="session")
def manifest() -> Callable[..., Json]:
    """`manifest(replicas=2)`: an LLMDeployment with that spec, and a model unless told otherwise."""

    def make(name: str = "one", **spec: Any) -> Json:
        return {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": name}, "spec": {"model": {"source": "/models/one"}} | spec}

    return make
