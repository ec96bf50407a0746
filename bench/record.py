"""Where a figure came from: machine, versions and commit beside every row, as JSON lines."""

import datetime
import json
import os
import pathlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"


def chip() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    return sum(line.startswith("processor") for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines())


def commit() -> str:
    """The commit that was measured; `-dirty` when the tree held more than it. A copied tree has no history: there the
    environment variable BENCH_COMMIT says it."""
    if "BENCH_COMMIT" in os.environ:
        return os.environ["BENCH_COMMIT"]
    root = pathlib.Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=root, capture_output=True, text=True, check=True).stdout
    return head + ("-dirty" if changed.strip() else "")


def versions(*packages: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


class Recorder:
    """Prints the rows of one table and writes them to `results/<date>-<device>-<what>.jsonl`.

    `load` in each row is the machine's when the table was begun: well above 0, and other work was measured too.
    """

    def __init__(self, what: str, *packages: str, device: str = "cpu") -> None:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        self.path = RESULTS / f"{today}-{device}-{what}.jsonl"
        self.facts = {"date": today, "machine": f"{chip()}, {cores()} cores", "commit": commit(), "load": round(os.getloadavg()[0], 1)}
        self.facts["versions"] = versions("octavo", *packages)
        self.rows: list[dict[str, Any]] = []

    def row(self, **values: Any) -> None:
        print(json.dumps(values), flush=True)
        self.rows.append(values | self.facts)

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
