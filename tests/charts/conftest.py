"""The chart as helm renders it, for sets of values in `values/`. Needs a helm, or Go to build one: see tests/e2e/cluster/helm."""

import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CHART = ROOT / "charts" / "octavo"
Json = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first may have to wait until helm is built, once for each machine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


class Helm:
    """helm at work on the chart, without a cluster."""

    def __init__(self, program: str) -> None:
        self._program = program

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self._program, *arguments], capture_output=True, text=True, check=False, timeout=60)

    def template(self, *values: str, release: str = "octavo") -> subprocess.CompletedProcess[str]:
        """`values` are `key=value`, or names of files in `values/`."""
        sets = [f"--set={value}" if "=" in value else f"--values={HERE / 'values' / value}.yaml" for value in values]
        return self.run("template", release, str(CHART), "--namespace=octavo-system", "--kube-version=1.34.0", *sets)

    def render(self, *values: str, release: str = "octavo") -> list[Json]:
        """Every manifest."""
        done = self.template(*values, release=release)
        assert done.returncode == 0, done.stderr
        return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


@cache
def helm_program() -> str:
    done = subprocess.run([ROOT / "tests/e2e/cluster/helm"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def helm() -> Helm:
    if not (shutil.which("helm") or shutil.which("go")):
        pytest.skip("this machine has neither a helm nor Go to build one")
    return Helm(helm_program())


@pytest.fixture(scope="session")
def one() -> Callable[[list[Json], str, str], Json]:
    """`one(manifests, "Deployment", "octavo-gateway")`."""

    def find(manifests: list[Json], kind: str, name: str) -> Json:
        (found,) = [manifest for manifest in manifests if manifest["kind"] == kind and manifest["metadata"]["name"] == name]
        return found

    return find
