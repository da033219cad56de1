"""Training runs as a user starts them, timed from outside, and their tables.

Seconds per step are the median over the steps after the first two, which hold the
compilation, and leave evaluations out. Peak memory is that of the whole process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import hardware
from shared.files import write_json


@dataclass(frozen=True)
class Run:
    """What one finished run left."""

    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    """of metrics.jsonl"""
    peak_bytes: int

    @property
    def seconds(self) -> list[float]:
        """Of each step but the first two."""
        return [row["seconds"] for row in self.rows if row["step"] > 2]

    def times(self) -> dict[str, float]:
        """Columns of a table: seconds per step and peak memory."""
        return {
            "s/step": round(statistics.median(self.seconds), 3),
            "min": round(min(self.seconds), 3),
            "max": round(max(self.seconds), 3),
            "peak GiB": round(self.peak_bytes / 1024**3, 2),
        }


def train(
    arguments: list[str], name: str, output_dir: str, *, module: str = "wmtp_jax"
) -> Run:
    """Runs `python -m MODULE.train` in a process of its own."""
    command = [sys.executable, "-m", f"{module}.train", *arguments]
    command += ["--run-name", name, "--output-dir", output_dir, "--tracking", "jsonl"]
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed: {' '.join(command)}")
    folder = Path(output_dir) / name
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return Run(summary, rows, usage.ru_maxrss * kilobyte)


def options_parser(description: str) -> argparse.ArgumentParser:
    """A benchmark's own options; those it does not know go to the trainer."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--json", help="also write the rows to this file")
    return parser


def print_table(rows: list[dict[str, Any]], json_file: str | None) -> None:
    """A Markdown table with its command and machine; as JSON too if a file is named."""
    names = list(rows[0])
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(str(row[name]) for name in names)} |")
    print(f"\n    {' '.join([command(), *sys.argv[1:]])}\n\n{measured_on()}")
    if json_file:
        named = [row | {"processor": hardware.processor()} for row in rows]
        write_json(Path(json_file).expanduser(), named)


def command() -> str:
    """As it was typed, up to its options."""
    return f"python -m benchmarks.{Path(sys.argv[0]).stem}"


def measured_on() -> str:
    """Processor, memory, versions, date: one machine's table says little of another."""
    packages = ("jax", "torch", "transformers", "numpy")
    versions = ", ".join(f"{name} {version(name)}" for name in packages if _has(name))
    return (
        f"{hardware.processor()}, {hardware.memory_gib()} GiB; {versions}; "
        f"{date.today().isoformat()}"
    )


def _has(package: str) -> bool:
    return find_spec(package) is not None
