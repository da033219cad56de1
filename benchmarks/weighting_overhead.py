"""What weighting costs: a step of each algorithm over a step of `baseline`.

    python -m benchmarks.weighting_overhead --shape distilgpt2 --batch 4 --length 256

Signals are at hand, as in training: a reference is never run in a step. By FLOPs the
fraction could be what the last column says.
"""

from benchmarks import floor, peers, workload
from benchmarks.runs import print_table
from benchmarks.timing import ratio, spread, take_turns


def main() -> None:
    asked = workload.parser(__doc__).parse_args()
    configs = {algo: workload.config(asked, algo) for algo in workload.ALGOS}
    batches = workload.batches_of(asked, configs["baseline"], "packed")
    made = {algo: peers.ours(cfg, batches) for algo, cfg in configs.items()}
    times = take_turns(made, rounds=asked.rounds)
    flops = {
        algo: sum(floor.step_flops(cfg, batch) for batch in batches)
        for algo, cfg in configs.items()
    }
    table = [
        {
            "algorithm": algo,
            **spread(times[algo]),
            "over baseline": round(ratio(times, algo, "baseline"), 3),
            "by FLOPs": round(flops[algo] / flops["baseline"], 3),
        }
        for algo in configs
    ]
    print(f"{workload.title(asked)}\n")
    print_table(table, asked.json)


if __name__ == "__main__":
    main()
