"""One training step of ours and of peers, and the floor that its matrix products set.

    python -m benchmarks.step_time --shape distilgpt2 --batch 4 --length 256
    python -m benchmarks.step_time --data FOLDER --tokenizer FOLDER --batch 8

Uniform weights: what peers can do too. Ours packs documents into rows, as it trains;
peers have one document a row. The floor is the FLOPs of the products that a step cannot
do without, for real tokens only, at the rate that the head's own products reach in the
same round.
"""

import statistics

from benchmarks import floor, peers, workload
from benchmarks.runs import print_table
from benchmarks.timing import rates, ratio, spread, take_turns

MADE = {
    "ours": peers.ours,
    "jax-naive": peers.jax_naive,
    "jax-cce": peers.jax_cce,
    "torch-naive": peers.torch_naive,
    "torch-compile": peers.torch_compile,
}
SHORT = ("ours", "jax-naive", "torch-naive")


def main() -> None:
    parser = workload.parser(__doc__)
    parser.add_argument("--variants", nargs="+", choices=tuple(MADE), default=SHORT)
    asked = parser.parse_args()
    cfg = workload.config(asked)
    layouts = {x: "packed" if x == "ours" else "padded" for x in asked.variants}
    given = {
        layout: workload.batches_of(asked, cfg, layout)
        for layout in dict.fromkeys(layouts.values())
    }
    made = {"products": floor.products(cfg, asked.batch * asked.length)}
    made |= {name: MADE[name](cfg, given[layouts[name]]) for name in asked.variants}
    counted: dict[str, list] = {}
    times = take_turns(made, rounds=asked.rounds, counted=counted)
    counted |= {x: [done.tokens for done in counted[x]] for x in asked.variants}
    least = {  # FLOPs that a token needs, by layout
        layout: sum(floor.step_flops(cfg, batch) for batch in batches)
        / sum(peers.tokens_of(batch) for batch in batches)
        for layout, batches in given.items()
    }
    speeds = rates(times, counted)
    table = []
    for name in asked.variants:
        flops = [least[layouts[name]] * tokens for tokens in counted[name]]
        products = (times["products"], counted["products"])
        share = floor.share_of_floor(times[name], flops, *products)
        row = {
            "step": name,
            **spread(times[name]),
            "tokens/s": round(statistics.median(speeds[name])),
            "padding": f"{padding(given[layouts[name]], name):.1%}",
            "of the floor": f"{share:.0%}",
            "ours is faster": round(ratio(speeds, asked.variants[0], name), 2),
        }
        table.append(row)
    print(f"{workload.title(asked, statistics.median(speeds['products']))}\n")
    print_table(table, asked.json)


def padding(batches: list, name: str) -> float:
    """Share of the positions that are padding; torch's rows end with the longest."""
    positions = 0
    for batch in batches:
        real_BL = batch.document_BL[0] > 0
        B, L = real_BL.shape
        if name.startswith("torch"):
            L = int(real_BL.sum(axis=1).max())
        positions += B * L
    return 1 - sum(peers.tokens_of(batch) for batch in batches) / positions


if __name__ == "__main__":
    main()
