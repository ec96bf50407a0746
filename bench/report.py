"""Writes the README's figures from the newest committed results, so that no figure is typed by hand.

python -m bench.report [--check]
"""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from bench.record import RESULTS

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- figures: python -m bench.report -->", "<!-- end of figures -->"

Row = dict[str, Any]


def newest(what: str) -> list[Row]:
    """The rows of the newest result file of that name; none when it was never measured."""
    files = sorted(RESULTS.glob(f"*-{what}.jsonl"))
    return [json.loads(line) for line in files[-1].read_text().splitlines()] if files else []


def engine(row: Row) -> tuple[str, str]:
    how = "one stream" if row["requests"] == 1 else f"{row['requests']} at once, transformers one by one"
    figure = f"{row['octavo_tok_s']} tok/s, transformers {row['transformers_tok_s']} ({row['ratio']}x)"
    return f"{row['model']} on a CPU, {row['prompt_tokens']} → {row['output_tokens']} tokens, {how}", figure


def startup(row: Row) -> tuple[str, str]:
    return f"`octavo serve {row['model']}` to ready, model on disk", f"{row['ready_s']} s"


def gateway(row: Row) -> tuple[str, str]:
    unit = "requests/s" if row["workload"] == "requests" else "SSE chunks/s"
    return (
        f"gateway on loopback, {unit}",
        f"{row['gateway_per_s']:,.0f}, the same stub without it {row['direct_per_s']:,.0f}; {row['gateway_cpu_us']} µs of CPU each",
    )


def offline(row: Row) -> tuple[str, str]:
    where = f"{row['model']} bf16 on one H100"
    if "workload" not in row:
        return f"{where}, dummy weights, to ready", f"{row['startup_s']} s"
    if row["workload"] == "single":
        return f"{where}, one stream of 512 tokens in", f"{row['tpot_ms']} ms a token, the first after {row['ttft_ms']} ms"
    return f"{where}, {row['workload']}", f"{row['out_tok_s']:,} tokens/s out, {row['total_tok_s']:,} in and out"


TABLES: tuple[tuple[str, str, Callable[[Row], tuple[str, str]]], ...] = (
    ("cpu-engine", "python -m bench.engine", engine),
    ("cpu-startup", "python -m bench.startup", startup),
    ("cpu-gateway", "python -m bench.gateway", gateway),
    ("h100-offline", "python bench/offline.py octavo MODEL …", offline),
)


def table() -> str:
    lines = ["| What | Figure | Command |", "|---|---|---|"]
    machines = set()
    for what, command, describe in TABLES:
        for row in newest(what):
            name, figure = describe(row)
            lines.append(f"| {name} | {figure} | `{command}` |")
            if "commit" in row:
                machines.add(f"{row.get('machine') or row['device']}, commit {row['commit']}, {row['date']}")
    return "\n".join([*lines, "", *(f"Measured on {machine}." for machine in sorted(machines))])


def main() -> int:
    text = README.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    fresh = f"{head}{BEGIN}\n{table()}\n{END}{tail}"
    if "--check" in sys.argv[1:]:
        if fresh != text:
            print("README.md: its figures are not those of bench/results; run: python -m bench.report", file=sys.stderr)
        return int(fresh != text)
    README.write_text(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
