"""What it costs that a step can be skipped: with the choice, and without.

    python -m benchmarks.skipping --shape distilgpt2 --batch 4 --length 256

Without, the update of every number is made whatever the gradient is. Both look at every
gradient's norm, as clipping does. Beside the time, what XLA plans for a step.
"""

from unittest.mock import patch

from benchmarks import peers, workload
from benchmarks.runs import print_table
from benchmarks.timing import ratio, spread, take_turns
from wmtp_jax import step

WAYS = ("always", "unless not finite")


def main() -> None:
    asked = workload.parser(__doc__).parse_args()
    cfg = workload.config(asked, "baseline")
    batches = workload.batches_of(asked, cfg, "packed")
    with patch.object(step, "first_not_finite", lambda gradient, metrics: -1):
        made = {WAYS[0]: peers.ours(cfg, batches)}
    made[WAYS[1]] = peers.ours(cfg, batches)
    times = take_turns(made, rounds=asked.rounds)
    table = [
        {"update": way, **spread(times[way]), "over": round(ratio(times, way, WAYS[0]), 3)}
        for way in WAYS
    ]
    print(f"{workload.title(asked)}\n")
    print_table(table, asked.json)


if __name__ == "__main__":
    main()
