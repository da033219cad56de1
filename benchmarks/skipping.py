"""What it costs that a step can be skipped: with the choice, and without.

    python -m benchmarks.skipping --shape distilgpt2 --batch 4 --length 256

Without, an update is made whatever the gradient is. Both take the norm of every
gradient, as clipping does. `GB` is what XLA says that a step reads and writes.
"""

from unittest.mock import patch

import jax

from benchmarks import peers, workload
from benchmarks.runs import print_table
from benchmarks.timing import ratio, spread, take_turns
from shared.config.fields import Config
from shared.data.batches import Batch
from wmtp_jax import sharding, step
from wmtp_jax.optimizer import make_optimizer

ALWAYS, CHOSEN = "always", "unless not finite"


def program(cfg: Config, batch: Batch) -> jax.stages.Compiled:
    """The step as it is now, compiled."""
    tx = make_optimizer(cfg, 1000)
    jitted, _ = step.make_train_step(cfg, tx, 1000, sharding.make_mesh(cfg))
    return jitted.lower(peers.start(cfg), batch).compile()


def main() -> None:
    asked = workload.parser(__doc__).parse_args()
    cfg = workload.config(asked, "baseline")
    (batch, *_) = batches = workload.batches_of(asked, cfg, "packed")
    made, programs = {}, {}
    with patch.object(step, "first_not_finite", lambda gradient, metrics: -1):
        made[ALWAYS], programs[ALWAYS] = peers.ours(cfg, batches), program(cfg, batch)
        made[ALWAYS]()  # traced as it is here
    made[CHOSEN], programs[CHOSEN] = peers.ours(cfg, batches), program(cfg, batch)
    times = take_turns(made, rounds=asked.rounds)
    table = [
        {
            "update": way,
            **spread(times[way]),
            "over always": round(ratio(times, way, ALWAYS), 3),
            "GB": round(programs[way].cost_analysis()["bytes accessed"] / 1e9, 3),
            "temporary MiB": programs[way].memory_analysis().temp_size_in_bytes >> 20,
        }
        for way in (ALWAYS, CHOSEN)
    ]
    print(f"{workload.title(asked)}\n")
    print_table(table, asked.json)


if __name__ == "__main__":
    main()
