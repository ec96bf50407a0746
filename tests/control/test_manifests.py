"""Files of `octavo up`: what is read, and one line that names the file and the field where it cannot be."""

from pathlib import Path

import pytest

from octavo_api.errors import InvalidResource
from octavo_operator.manifests import load

GOOD = "apiVersion: octavo.dev/v1alpha1\nkind: LLMDeployment\nmetadata: {name: NAME}\nspec: {model: {source: ./m}}\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "m.yaml") -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


def test_several_documents_of_several_files(write, tmp_path) -> None:
    files = [write("---\n" + GOOD.replace("NAME", "a") + "---\n" + GOOD.replace("NAME", "b") + "---\n"), write(GOOD.replace("NAME", "c"), "other.yaml")]
    manifests = load(files)
    assert [str(manifest.key) for manifest in manifests] == ["default/a", "default/b", "default/c"]
    assert {manifest.folder for manifest in manifests} == {tmp_path}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "m.yaml: is not YAML: while parsing"),
        ("- 1", "m.yaml: is list, must be an LLMDeployment"),
        ("", "m.yaml: holds no LLMDeployment"),
        ("apiVersion: v1\nkind: Secret", "m.yaml: apiVersion: is 'v1', must be 'octavo.dev/v1alpha1'"),
        (GOOD.replace("NAME", "a") + "---\n" + GOOD.replace("{model", "{replicas: -1, model"), "m.yaml, document 2: spec.replicas: "),
        (GOOD.replace("./m", "s3://bucket/m"), "m.yaml: spec.model.source: "),
        (GOOD.replace("./m", "pvc://claim/m"), "m.yaml: spec.model.source: 'pvc://claim/m' needs a cluster"),
        (GOOD + "---\n" + GOOD, "the name 'NAME' is taken by another resource"),
        (GOOD.replace("NAME", "a") + "---\n" + GOOD.replace("NAME", "b").replace("./m", "./m, aliases: [a]"), "default/b: the name 'a' is taken"),
    ],
)
def test_what_is_wrong(write, text, complaint) -> None:
    with pytest.raises(InvalidResource) as error:
        load([write(text)])
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(InvalidResource, match=r"none\.yaml: No such file"):
        load([tmp_path / "none.yaml"])


def test_a_file_that_is_no_text(tmp_path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidResource, match=r"m\.yaml: is not YAML"):
        load([tmp_path / "m.yaml"])
