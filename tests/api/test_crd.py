"""The CRD keeps to what an API server admits, and every generated file is what the code says now."""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
import yaml
from msgspec import Meta

from octavo_api import resource
from tools import crd, generate
from tools.schema import Unbounded, structural


@pytest.mark.parametrize("path", generate.FILES)
def test_generated_files_are_fresh(path: str) -> None:
    assert (generate.ROOT / path).read_text() == generate.FILES[path](), "run: make generate"


def test_a_stale_file_is_found_and_mended(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "FILES", {"fresh.md": lambda: "new\n", "deep/missing.md": lambda: "new\n", "old.md": lambda: "new\n"})
    (tmp_path / "fresh.md").write_text("new\n")
    (tmp_path / "old.md").write_text("old\n")
    assert generate.stale() == ["deep/missing.md", "old.md"]
    generate.write(generate.stale())
    assert generate.stale() == []


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


def test_the_schema_is_structural() -> None:
    for path, schema in nodes(crd.schema()):
        assert not {"$ref", "anyOf", "oneOf", "allOf", "not", "title", "additionalProperties", "const"} & set(schema), path
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        assert schema.get("default", 0) is not None, path


def test_everything_has_a_maximum() -> None:
    """The API server prices rules by it."""
    ours = crd.schema()["properties"]
    for path, schema in (node for part in ("spec", "status") for node in nodes(ours[part], part)):
        kind = schema.get("type")
        if kind in ("string", None) and "enum" not in schema:
            assert "maxLength" in schema, path
        if kind == "array":
            assert "maxItems" in schema, path
        if kind == "object":
            assert "properties" in schema or "maxProperties" in schema, path


def test_everything_is_explained() -> None:
    for path, schema in nodes(crd.schema()):
        if path.startswith((".spec", ".status")) and not path.endswith("[]"):
            assert schema.get("description"), path


def test_an_unbounded_field_is_refused_when_the_schema_is_made() -> None:
    Inner = msgspec.defstruct("Inner", [("names", Annotated[tuple[Annotated[str, Meta(max_length=9)], ...], Meta(description="x")])])
    Outer = msgspec.defstruct("Outer", [("inner", Inner)])
    with pytest.raises(Unbounded, match=r"inner\.names: array without maxItems"):
        structural(Outer)


def test_the_charts_copy_is_the_same_crd() -> None:
    """But for what Helm decides: whether it is there, and whether it stays."""
    head, _, spec = crd.template().partition("\nspec:\n")
    copy = yaml.safe_load("spec:\n" + spec.removesuffix("{{- end }}\n"))
    assert copy["spec"] == yaml.safe_load(crd.manifest())["spec"]
    assert ".Values.crds.install" in head
    assert "helm.sh/resource-policy: keep" in head


def test_columns_and_scale_point_at_fields() -> None:
    schema = crd.schema()
    for path in (*resource.SCALE.values(), *(column.path for column in resource.COLUMNS if "[" not in column.path and not column.path.startswith(".metadata"))):
        place = schema
        for name in path.strip(".").split("."):
            place = place["properties"][name]
