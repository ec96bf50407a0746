"""Parts that several tests of the control plane use: an `octavo` whose verb `serve` is a stand-in, and processes by their mark."""

import os
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent


@pytest.fixture
def stand_in(tmp_path: Path) -> dict[str, str]:
    """An environment in which `octavo` is ours with all its verbs, but for `serve`, which is `stand_in.py`.

    Distributions that come first on the path hide later ones of the same name; this one differs in that entry point alone.
    """
    folder = tmp_path / "path"
    metadata = folder / "octavo-0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(HERE / "stand_in.py", folder)
    points = [point for point in distribution("octavo").entry_points if point.group == "octavo.verbs" and point.name != "serve"]
    lines = [f"{point.name} = {point.value}" for point in points] + ["serve = stand_in:serve"]
    (metadata / "entry_points.txt").write_text("\n".join(["[octavo.verbs]", *lines, ""]))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: octavo\nVersion: 0\n")
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1", "OCTAVO_TEST_MARK": str(tmp_path)}


def write_manifest(folder: Path, name: str, model: dict[str, Any], **spec: Any) -> Path:
    """A resource whose model is a file of the stand-in's faults beside it."""
    import json

    (folder / f"{name}.json").write_text(json.dumps(model))
    content = {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"source": f"./{name}.json"}, "rollout": {"drainTimeout": "30s"}} | spec,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content))
    return file
