"""`docs/resource.md` lists every reason that a condition can have: those of the operator's code and those that a replica names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from octavo_api.resource import parse
from octavo_operator.conditions import verdicts
from octavo_operator.desired import desired
from octavo_operator.pod_state import _UNSCHEDULABLE
from octavo_operator.types import Observed

ROOT = Path(__file__).parents[2]
STAGES = {"Downloading", "Loading", "Warming"}
NOT_SHOWN = {"Shutdown"}
"""What a replica says of itself while it ends as it was told to."""


def strings(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp():
            yield from (*strings(node.body), *strings(node.orelse))
        case ast.BoolOp():
            for value in node.values:
                yield from strings(value)


def reasons(folder: str, **calls: int) -> set[str]:
    """Constant reasons in the code: the argument at the given place of the named calls, or the keyword `reason`."""
    found: set[str] = set()
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                given = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
                given += node.args[calls[name] :][:1] if name in calls else []
                found |= {text for value in given for text in strings(value) if text[:1].isupper()}
    return found


def documented() -> set[str]:
    table = (ROOT / "docs" / "resource.md").read_text().partition("### Reasons")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    return {reason.strip() for cell in cells for reason in cell.split(",")}


def test_reasons() -> None:
    operator = reasons("operator/octavo_operator", Verdict=1, Failure=0) | {reason for _, reason in _UNSCHEDULABLE} | STAGES
    replica = reasons("engine/octavo", ModelUnavailable=0, _fail=0) - NOT_SHOWN
    assert {"EngineOOM", "NodeLost", "QuotaExceeded"} <= operator, "the search finds them"
    assert {"ModelNotFound", "WeightsNotFound"} <= replica, "the search finds them"
    assert documented() == operator | replica


def test_conditions() -> None:
    text = (ROOT / "docs" / "resource.md").read_text()
    table = text.partition("| Condition | True means |")[2].partition("\n\n")[0]
    resource = parse({"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": "m"}, "spec": {"model": {"source": "/m"}}})
    assert re.findall(r"^\| ([A-Z]\w+) \|", table, re.MULTILINE) == list(verdicts(desired(resource), Observed(), 0.0))


def test_the_files_that_it_names_are_there() -> None:
    text = (ROOT / "docs" / "resource.md").read_text()
    for name in set(re.findall(r"`([\w/.]+\.py)`", text)):
        assert any((ROOT / folder / name).exists() for folder in (".", "operator/octavo_operator", "tests/control")), name
