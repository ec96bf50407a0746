"""Parts that several tests of the control plane use: an `octavo` whose verb `serve` is a stand-in, and `octavo up` as a process."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from fake_api import FakeApi, serving, write_kubeconfig

HERE = Path(__file__).parent
OCTAVO = str(Path(sys.executable).with_name("octavo"))


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
    return {**os.environ, "PYTHONPATH": str(folder), "TMPDIR": str(tmp_path), "OCTAVO_TEST_MARK": str(tmp_path)}


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """`write_manifest("name", {faults}, replicas=2)`: a resource whose model is a file of the stand-in's faults beside it."""

    def write(name: str, model: dict[str, Any], **spec: Any) -> Path:
        (tmp_path / f"{name}.json").write_text(json.dumps(model))
        spec = {"model": {"source": f"./{name}.json"}, "rollout": {"drainTimeout": "30s"}} | spec
        content = {"apiVersion": "octavo.dev/v1alpha1", "kind": "LLMDeployment", "metadata": {"name": name}, "spec": spec}
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


class Up:
    """One `octavo up`; its output in two files that can be read while it runs."""

    def __init__(self, folder: Path, environment: dict[str, str], arguments: list[str]) -> None:
        self.out, self.err = folder / "stdout", folder / "stderr"
        self.mark = environment["OCTAVO_TEST_MARK"]
        with self.out.open("wb") as out, self.err.open("wb") as err:
            command = [OCTAVO, *arguments]
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=folder)

    @property
    def said(self) -> str:
        return self.err.read_text()

    @property
    def answer(self) -> str:
        return self.out.read_text()

    @property
    def url(self) -> str:
        return next(word.rstrip(",") for word in self.said.split() if word.startswith("http://") and word.rstrip(",").endswith("/v1"))

    def until(self, text: str, seconds: float = 30) -> None:
        wait_until(lambda: text in self.said + self.answer or self.process.poll() is not None, seconds)
        assert text in self.said + self.answer

    def ended(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def others(self) -> list[psutil.Process]:
        """Every process that has this test's mark in its environment, but the first one."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("OCTAVO_TEST_MARK") == self.mark and process.pid != self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def replicas(self) -> list[psutil.Process]:
        return [process for process in self.others() if "serve" in process.cmdline()]


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


@pytest.fixture
def up(tmp_path: Path, stand_in: dict[str, str]) -> Iterator[Callable[..., Up]]:
    """`up("file.yaml", "--ask=…")` on a free port, with the stand-in unless it is `real`; afterwards nothing of it may be left."""
    started: list[Up] = []

    def start(*arguments: str | Path, port: int = 0, real: bool = False) -> Up:
        environment = os.environ | {name: stand_in[name] for name in ("OCTAVO_TEST_MARK", "TMPDIR")} if real else stand_in
        started.append(Up(tmp_path, environment, ["up", *map(str, arguments), f"--port={port}"]))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        wait_until(lambda one=one: not one.others(), 10)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """An API server in this process."""
    async with serving(FakeApi()) as running:
        yield running


@pytest.fixture
def kubeconfig(api: FakeApi, tmp_path: Path) -> Path:
    return write_kubeconfig(tmp_path / "kubeconfig", api.url)
