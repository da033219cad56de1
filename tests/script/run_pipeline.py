#!/usr/bin/env python
"""Trains the algorithms one after another, and sets them side by side in one table.

    python tests/script/run_pipeline.py --all
    python tests/script/run_pipeline.py --recipe tests/configs/recipe.critic_wmtp.yaml

Each runs in a process of its own, as from the command line, and leaves its run folder.
The exit code is 0 if all ended well, 1 if any failed, 2 for bad input.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

from shared.run.command_line import parse
from shared.tracking import console

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECIPES = ("mtp_baseline", "rho1_wmtp_weighted", "rho1_wmtp_tokenskip", "critic_wmtp")
MODULES = {"jax": "wmtp_jax", "torch": "wmtp_torch_mps"}
NLL = "eval_nll_head_0"
COLUMNS = (
    "algorithm",
    "s/step",
    "peak MiB",
    "nll before",
    "nll after",
    "steps to baseline's nll",
    "run",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="the four recipes beside it")
    which.add_argument(
        "--recipe", action="append", metavar="R", help="a file or preset; repeatable"
    )
    parser.add_argument(
        "--config",
        metavar="C",
        default=str(CONFIGS / "config.local_test.yaml"),
        help="the machine, a file or preset; default: %(default)s",
    )
    parser.add_argument("--backend", choices=tuple(MODULES), default="torch")
    parser.add_argument(
        "--verbose", action="store_true", help="show what each run says"
    )
    return parser


def _free(folder: Path) -> Path:
    """The folder, or where a run of the same second has taken it `folder-2`, ..."""
    if not folder.exists():
        return folder
    numbered = (folder.with_name(f"{folder.name}-{n}") for n in count(2))
    return next(path for path in numbered if not path.exists())


def main(argv: list[str] | None = None) -> int:
    """The command line; further options go to every run as they are."""
    asked, options = _parser().parse_known_args(argv)
    files = [str(CONFIGS / f"recipe.{name}.yaml") for name in RECIPES]
    stamp = time.strftime("%Y%m%d-%H%M%S")
    planned = []
    try:
        for recipe in files if asked.all else asked.recipe:
            arguments = ["--config", asked.config, "--recipe", recipe, *options]
            cfg = parse(arguments, "run_pipeline.py").config
            name = f"{re.sub(r'[^A-Za-z0-9_-]', '-', Path(recipe).stem)}-{stamp}"
            folder = _free(Path(cfg.output_dir) / name)
            arguments += ["--run-name", folder.name, "--tracking", "jsonl"]
            planned.append((cfg.algo, folder, arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows, failed = [], False
    for number, (algo, folder, arguments) in enumerate(planned, 1):
        print(f"[{number}/{len(planned)}] {algo}: {folder}", flush=True)
        code = _run(MODULES[asked.backend], arguments, asked.verbose)
        if code == 130:
            return 130
        failed |= code != 0
        rows.append(read_run(folder) if code == 0 else {"run": f"failed ({code})"})
        rows[-1]["algorithm"] = algo
    add_steps_to_baseline(rows)
    shown = [[row.get(column, "-") for column in COLUMNS] for row in rows]
    console.table(f"{MODULES[asked.backend]}, validation nll of head 0", COLUMNS, shown)
    return int(failed)


def _run(module: str, arguments: list[str], verbose: bool) -> int:
    """The exit code of one run; what it said, if it failed or `verbose` asks for it."""
    command = [sys.executable, "-m", f"{module}.train", *arguments]
    command += ["--verbose"] if verbose else []
    output = None if verbose else subprocess.PIPE
    process = subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate()
    except KeyboardInterrupt:  # the run got it too, and saves what it has
        process.wait()
        return 130
    if process.returncode and said:
        print(said[-4000:], file=sys.stderr)
    return process.returncode


def read_run(folder: Path) -> dict[str, Any]:
    """A row of the table, from what a run has left; `seen` are its evaluations."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    seconds = [row["seconds"] for row in logged if row["step"] > 2]  # compiled by then
    return {
        "s/step": round(statistics.median(seconds), 4) if seconds else "-",
        "peak MiB": summary["peak_memory_mib"],
        "nll before": round(summary["eval_before"][NLL], 4),
        "nll after": round(summary["eval_after"][NLL], 4),
        "seen": {row["step"]: row[NLL] for row in logged if NLL in row},
        "run": folder.name,
    }


def add_steps_to_baseline(rows: list[dict[str, Any]]) -> None:
    """First evaluated step at which each run is where the baseline's ended.

    `-` without a baseline, `never` for one that does not get there.
    """
    ends = [r["seen"] for r in rows if r["algorithm"] == "baseline" and "seen" in r]
    if not ends:
        return
    final = ends[0][max(ends[0])]
    for row in rows:
        steps = [step for step, nll in row.get("seen", {}).items() if nll <= final]
        if "seen" in row:
            row["steps to baseline's nll"] = min(steps, default="never")


if __name__ == "__main__":
    sys.exit(main())
