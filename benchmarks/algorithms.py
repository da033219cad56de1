"""The four algorithms side by side on one model and one data set.

    python -m benchmarks.algorithms --model distilgpt2-shape --data FOLDER \
        --data.tokenizer FOLDER

Each algorithm runs in a process of its own, as a user would start it; every other
argument goes to `python -m wmtp_jax.train` as it is.
"""

import tempfile

from benchmarks.runs import options_parser, print_table, train
from benchmarks.workload import ALGOS


def main() -> None:
    own, rest = options_parser(__doc__).parse_known_args()
    with tempfile.TemporaryDirectory() as output_dir:
        rows = []
        for algo in ALGOS:
            run = train(["--algo", algo, *rest], algo, output_dir)
            rows.append(
                {
                    "algorithm": algo,
                    **run.times(),
                    "nll before": round(
                        run.summary["eval_before"]["eval_nll_head_0"], 3
                    ),
                    "nll after": round(run.summary["eval_after"]["eval_nll_head_0"], 3),
                    "whole run s": run.summary["seconds"],
                }
            )
    print_table(rows, own.json)


if __name__ == "__main__":
    main()
