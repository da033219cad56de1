"""The four algorithms side by side on one model and one data set.

    python -m benchmarks.algorithms --model distilgpt2-shape --data FOLDER \
        --data.tokenizer FOLDER

Each algorithm runs in a process of its own, as a user would start it; every other
argument goes to `python -m wmtp_jax.train` as it is. Seconds per step are the median
over the steps after the first two, which hold the compilation, and leave evaluations
out. Peak memory is that of the whole process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ALGOS = ("baseline", "rho1-weighted", "rho1-tokenskip", "critic")


def run_one(algo: str, arguments: list[str], output_dir: str) -> dict[str, object]:
    """Trains with one algorithm; returns a row of the table."""
    command = [sys.executable, "-m", "wmtp_jax.train", "--algo", algo, *arguments]
    command += ["--run-name", algo, "--output-dir", output_dir, "--tracking", "jsonl"]
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{algo} failed: {' '.join(command)}")
    folder = Path(output_dir) / algo
    summary = json.loads((folder / "summary.json").read_text())
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows if row["step"] > 2]
    return {
        "algorithm": algo,
        "s/step": round(statistics.median(seconds), 3),
        "min": round(min(seconds), 3),
        "max": round(max(seconds), 3),
        "peak GiB": round(usage.ru_maxrss / 1024**2, 2),
        "nll before": round(summary["eval_before"]["eval_nll_head_0"], 3),
        "nll after": round(summary["eval_after"]["eval_nll_head_0"], 3),
        "whole run s": summary["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="also write the rows to this file")
    own, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as output_dir:
        rows = [run_one(algo, arguments, output_dir) for algo in ALGOS]
    names = list(rows[0])
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(str(row[name]) for name in names)} |")
    if own.json:
        Path(own.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
