"""What weighting costs: a step of each algorithm over a step of `baseline`.

    python -m benchmarks.weighting_overhead --shape distilgpt2 --batch 4 --length 256

Signals are at hand, as in training: a reference is never run in a step. By FLOPs the
fraction could be what the last column says.
"""

import jax

from benchmarks import peers, workload
from benchmarks.runs import print_table
from benchmarks.timing import ratio, spread, take_turns


def main() -> None:
    asked = workload.parser(__doc__).parse_args()
    configs = {algo: workload.config(asked, algo) for algo in workload.ALGOS}
    batch = workload.dense_batch(configs["baseline"])
    made = {algo: peers.ours(cfg, batch) for algo, cfg in configs.items()}
    times = take_turns(made, rounds=asked.rounds)
    least = workload.flops(configs["baseline"], batch)
    rows = [
        {
            "algorithm": algo,
            **spread(times[algo]),
            "over baseline": round(ratio(times, algo, "baseline"), 3),
            "by FLOPs": round(workload.flops(cfg, batch) / least, 3),
        }
        for algo, cfg in configs.items()
    ]
    print(
        f"{asked.shape}, {asked.heads} linear heads, {asked.batch} x {asked.length}, "
        f"float32, jax {jax.__version__}\n"
    )
    print_table(rows, asked.json)


if __name__ == "__main__":
    main()
