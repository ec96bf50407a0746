"""The examples are what a newcomer copies: each one parses, and says of itself what it is."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from octavo_api.resource import parse
from octavo_operator.desired import desired

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = sorted(EXAMPLES.glob("*.yaml"))


def test_they_are_numbered_without_gaps() -> None:
    numbers = sorted(int(file.name.partition("-")[0]) for file in EXAMPLES.iterdir() if file.suffix in (".yaml", ".py"))
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_a_manifest_is_valid(file: Path) -> None:
    documents = list(yaml.safe_load_all(file.read_text()))
    assert documents
    for document in documents:
        assert desired(parse(document)).revision
    assert file.read_text().startswith("# ")


def test_the_client_answers_a_question_through_octavo_up(up, write_manifest) -> None:
    running = up(write_manifest("tiny", {"words": "an orchestra of containers"}))
    running.until("curl -N")
    environment = {"OPENAI_BASE_URL": running.url, "PATH": ""}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "06-client.py"), "What is it?"], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "an orchestra of containers"
