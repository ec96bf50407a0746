"""Writes every file that is derived from code, or with `--check` says which ones are not fresh.

python -m tools.generate [--check]
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tools import crd, reference, values

ROOT = Path(__file__).parent.parent

FILES: dict[str, Callable[[], str]] = {
    "crds/llmdeployments.octavo.dev.yaml": crd.manifest,
    "charts/octavo/templates/crd-llmdeployments.yaml": crd.template,
    "charts/octavo/values.schema.json": values.schema,
    "docs/reference/llmdeployment.md": reference.llmdeployment,
    "docs/reference/settings.md": reference.settings,
    "docs/reference/metrics.md": reference.metrics,
    "docs/reference/chart.md": reference.chart,
}


def stale() -> list[str]:
    """Paths whose text is not what the code would write now."""
    return [path for path, make in FILES.items() if not (ROOT / path).is_file() or (ROOT / path).read_text() != make()]


def write(paths: list[str]) -> None:
    for path in paths:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(FILES[path]())


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    old = stale()
    if not check:
        write(old)
    for path in old:
        sys.stderr.write(f"{path}: is not what the code says; run: make generate\n" if check else f"wrote {path}\n")
    figures = subprocess.run([sys.executable, "-m", "bench.report", *(["--check"] if check else [])], cwd=ROOT, check=False)
    return int(bool(check and old) or figures.returncode != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
