"""Both trainers on one model and data set: the same steps, and what they cost.

    python -m benchmarks.backends
    python -m benchmarks.backends --model PREPARED --reference FOLDER --data FOLDER

Each algorithm runs in `wmtp_jax`, then in `wmtp_torch_mps`, each in a process of its
own. They start from one folder with heads and value head, as the trainers' random
generators differ: one with random weights of `--shape` is made (and another for the
reference), or `wmtp_jax.prepare --value-head` has made it of a real model. Options that
are not known here go to both trainers as they are. A difference is taken step by step,
over the number that JAX logged.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import workload
from benchmarks.runs import Run, print_table, train
from wmtp_jax.prepare import prepare

JAX, TORCH = "wmtp_jax", "wmtp_torch_mps"
COMPARED = ("loss", "nll_head_0", "value_loss", "weight_entropy", "kept_fraction")
EVALUATED = "eval_nll_head_0"


def main() -> None:
    parser = workload.parser(
        __doc__, shape="tiny", data="minis", batch=4, length=128, rounds=0
    )
    parser.add_argument("--algos", nargs="+", default=workload.ALGOS)
    parser.add_argument("--steps", type=int, default=6, help="of each run")
    parser.add_argument("--model", help="folder with heads and value head")
    parser.add_argument("--reference", help="folder; by default random weights")
    asked, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        rest = [*arguments(asked, Path(folder)), *rest]
        rows = [row for algo in asked.algos for row in _pair(algo, rest, folder)]
    print(f"{asked.model or workload.title(asked)}, {asked.steps} steps\n")
    print_table(rows, asked.json)


def arguments(asked: argparse.Namespace, folder: Path) -> list[str]:
    """What both trainers are given; models that are not named are made in `folder`."""
    named = {"model": asked.model, "reference": asked.reference}
    for number, (name, path) in enumerate(named.items()):
        if path is None:
            cfg = replace(workload.config(asked, "critic"), seed=number)
            prepare(cfg, folder / name, kind="causal", random_init=True)
            named[name] = str(folder / name)
    given = [
        *("--model", named["model"], "--reference", named["reference"]),
        *("--data", asked.data, "--heads", str(asked.heads)),
        *("--data.max-length", str(asked.length)),
        *("--data.batch-size", str(asked.batch)),
        *("--train.max-steps", str(asked.steps), "--train.save-every", "1000000"),
        *("--train.eval-every", "1000000", "--train.no-export"),
    ]
    given += ["--data.tokenizer", asked.tokenizer] if asked.tokenizer else []
    return given


def _pair(algo: str, rest: list[str], output_dir: str) -> list[dict]:
    """A row for each trainer; differences stand in torch's."""
    jax, torch = (
        train(["--algo", algo, *rest], f"{algo}-{module}", output_dir, module=module)
        for module in (JAX, TORCH)
    )
    differences = {name: differ(jax, torch, name) for name in (*COMPARED, EVALUATED)}
    return [_row(algo, JAX, jax, {}), _row(algo, TORCH, torch, differences)]


def differ(right: Run, other: Run, name: str) -> float | None:
    """Largest relative difference of a metric over all steps; None if there is none.

    Raises:
      SystemExit: if the runs did not log it at the same steps.
    """
    logged = [
        {row["step"]: row[name] for row in run.rows if name in row}
        for run in (right, other)
    ]
    if logged[0].keys() != logged[1].keys():
        raise SystemExit(f"{name} is logged at other steps in {JAX} than in {TORCH}")
    sizes = [
        abs(logged[1][step] - value) / (abs(value) or 1.0)
        for step, value in logged[0].items()
    ]
    return max(sizes, default=None)


def _row(algo: str, module: str, run: Run, differences: dict) -> dict:
    before, after = (run.summary[x][EVALUATED] for x in ("eval_before", "eval_after"))
    row = {"algorithm": algo, "trainer": module, **run.times()}
    row |= {"nll before": round(before, 4), "nll after": round(after, 4)}
    for name in (*COMPARED, EVALUATED):
        size = differences.get(name)
        row[f"d {name}"] = "" if size is None else f"{size:.1e}"
    return row


if __name__ == "__main__":
    main()
