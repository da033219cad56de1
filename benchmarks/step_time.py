"""One training step of ours and of peers, and the floor that its matrix products set.

    python -m benchmarks.step_time --shape distilgpt2 --batch 4 --length 256

Uniform weights on dense random rows: what peers can do too. The floor is the FLOPs of
the products that a step cannot do without, at the rate that the head's own products
reach in this run, in float32.
"""

import jax

from benchmarks import peers, workload
from benchmarks.runs import print_table
from benchmarks.timing import ratio, spread, take_turns

MADE = {
    "ours": peers.ours,
    "jax-naive": peers.jax_naive,
    "torch-naive": peers.torch_naive,
    "torch-compile": lambda *given: peers.torch_naive(*given, compiled=True),
}


def main() -> None:
    parser = workload.parser(__doc__)
    names = tuple(MADE)
    parser.add_argument("--variants", nargs="+", choices=names, default=names[:3])
    asked = parser.parse_args()
    cfg = workload.config(asked)
    batch = workload.dense_batch(cfg)
    rate = workload.gemm_rate(cfg, asked.batch * asked.length)
    made = {name: MADE[name](cfg, batch) for name in asked.variants}
    times = take_turns(made, rounds=asked.rounds)
    rate = (rate + workload.gemm_rate(cfg, asked.batch * asked.length)) / 2
    floor = workload.flops(cfg, batch) / rate
    rows = [
        {
            "step": name,
            **spread(times[name]),
            "of the floor": f"{floor / min(times[name]):.0%}",
            "over ours": round(ratio(times, name, asked.variants[0]), 2),
        }
        for name in asked.variants
    ]
    print(
        f"{asked.shape}, {asked.heads} linear heads, {asked.batch} x {asked.length}, "
        f"float32, jax {jax.__version__}; products run at {rate / 1e9:.0f} GFLOP/s, so "
        f"the floor is {floor:.3f} s\n"
    )
    print_table(rows, asked.json)


if __name__ == "__main__":
    main()
