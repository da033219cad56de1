"""Both trainers on one model and data set: the same steps, and what they cost.

    python -m wmtp_jax.prepare --model MODEL --heads 4 --value-head --out PREPARED
    python -m benchmarks.backends --model PREPARED --data FOLDER --reference FOLDER

Each algorithm runs in `wmtp_jax`, then in `wmtp_torch_mps`, each in a process of its
own; every other argument goes to both as it is. The model must be a folder with heads
and a value head (`--value-head`), as the trainers' random generators differ. A
difference is taken step by step, over the number that JAX logged.
"""

import tempfile

from benchmarks.algorithms import ALGOS
from benchmarks.runs import Run, options_parser, print_table, train

JAX, TORCH = "wmtp_jax", "wmtp_torch_mps"
COMPARED = ("loss", "nll_head_0", "value_loss", "weight_entropy", "kept_fraction")
EVALUATED = "eval_nll_head_0"


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--algos", nargs="+", default=ALGOS, choices=ALGOS)
    own, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as output_dir:
        rows = [row for algo in own.algos for row in _pair(algo, rest, output_dir)]
    print_table(rows, own.json)


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
