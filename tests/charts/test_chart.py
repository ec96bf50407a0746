"""The chart renders what is kept in `golden/` for each set of values, and refuses values that cannot work by their name.

After a change that is meant: OCTAVO_WRITE_GOLDEN=1 python -m pytest tests/charts
"""

import json
import os
import shutil
import textwrap
from pathlib import Path

import jsonschema
import pytest
import yaml

from octavo_api.resource import parse

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "charts" / "octavo"
SETS = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))


def test_lint(helm) -> None:
    done = helm.run("lint", str(CHART), "--strict", "--kube-version=1.34.0")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SETS)
def test_golden(helm, name: str) -> None:
    manifests = [manifest for manifest in helm.render(name) if manifest["kind"] != "CustomResourceDefinition"]
    rendered = yaml.safe_dump_all(manifests, sort_keys=False, width=160)
    golden = HERE / "golden" / f"{name}.yaml"
    if os.environ.get("OCTAVO_WRITE_GOLDEN"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


REFUSED = {
    "gateway.replica=2": ("/gateway", "replica"),
    "gateway.replicas=0": ("/gateway/replicas", "minimum"),
    "gateway.replicas=two": ("/gateway/replicas", "integer"),
    "gateway.service.type=Ingress": ("/gateway/service/type", "ClusterIP"),
    "gateway.service.nodePort=99999": ("/gateway/service/nodePort", "maximum"),
    "gateway.settings.maxBodyBytes=1": ("/gateway/settings/maxBodyBytes", "minimum"),
    "gateway.settings.port=80": ("/gateway/settings", "port"),
    "gateway.url=octavo.example.com": ("/gateway/url", "pattern"),
    "images.engine.digest=sha256:short": ("/images/engine/digest", "pattern"),
    "images.engine.pullPolicy=Sometimes": ("/images/engine/pullPolicy", "IfNotPresent"),
    "logLevel=loud": ("/logLevel", "warning"),
    "namespaces={Team A}": ("/namespaces/0", "pattern"),
    "crds.keep=never": ("/crds/keep", "boolean"),
    "engine.resources=none": ("", "engine"),
}


@pytest.mark.parametrize("value", REFUSED)
def test_wrong_values_are_refused_by_name(helm, value: str) -> None:
    done = helm.template(value)
    assert done.returncode != 0, "it was accepted"
    path, said = REFUSED[value]
    assert f"at '{path}'" in done.stderr
    assert said in done.stderr


def test_every_value_of_the_schema_is_in_values_yaml() -> None:
    """So that whoever reads values.yaml sees all there is, and its defaults pass."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)

    def compare(value: dict, name: str, path: str) -> None:
        properties = schema["definitions"][name]["properties"]
        assert set(value) == set(properties) - {"global"}, path
        for key, inner in properties.items():
            definition = inner.get("$ref", "").rpartition("/")[2]
            if definition and definition != "Settings":
                compare(value[key], definition, f"{path}.{key}")

    compare(values, "Values", "")


def test_crds_are_kept_unless_told_otherwise(helm, one) -> None:
    def crd(*values: str) -> dict:
        return one(helm.render(*values), "CustomResourceDefinition", "llmdeployments.octavo.dev")

    assert crd()["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in crd("crds.keep=false")["metadata"]
    assert "CustomResourceDefinition" not in {manifest["kind"] for manifest in helm.render("crds.install=false")}


def test_the_rendered_crd_is_the_generated_one(helm, one) -> None:
    generated = yaml.safe_load((CHART.parents[1] / "crds/llmdeployments.octavo.dev.yaml").read_text())
    assert one(helm.render(), "CustomResourceDefinition", "llmdeployments.octavo.dev")["spec"] == generated["spec"]


def test_two_releases_share_no_name(helm) -> None:
    def names(release: str) -> set[tuple[str, str]]:
        return {(manifest["kind"], manifest["metadata"]["name"]) for manifest in helm.render("crds.install=false", release=release)}

    assert not names("octavo") & names("blue")
    assert ("Service", "blue-octavo-gateway") in names("blue")
    assert all(len(name) <= 63 for _, name in names("a-release-name-that-is-as-long-as-helm-lets-it-be-53c"))


def test_notes_give_the_next_command(helm, tmp_path) -> None:
    """helm shows them on installation alone, so a copy of the chart renders them as text of a manifest."""
    shutil.copytree(CHART, tmp_path / "octavo")
    (tmp_path / "octavo/templates/notes.yaml").write_text('kind: Notes\ntext: |\n  {{- include (print .Template.BasePath "/NOTES.txt") . | nindent 2 }}\n')
    done = helm.run("template", "octavo", str(tmp_path / "octavo"), "--namespace=octavo-system", "--kube-version=1.34.0", "--set=namespaces={team-a}")
    (notes,) = [manifest["text"] for manifest in yaml.safe_load_all(done.stdout) if manifest and manifest["kind"] == "Notes"]
    shown = textwrap.dedent(notes.partition("<<EOF\n")[2].partition("  EOF\n")[0])
    resource = parse(yaml.safe_load(shown))
    assert (resource.namespace, resource.name) == ("team-a", "smollm2")
    assert "http://octavo-gateway.octavo-system.svc/v1" in notes
