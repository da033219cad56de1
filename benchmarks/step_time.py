"""One training step of ours and of peers, and the floor that its matrix products set.

    python -m benchmarks.step_time --shape distilgpt2 --batch 4 --length 256
    python -m benchmarks.step_time --data FOLDER --tokenizer FOLDER --batch 8
    python -m benchmarks.step_time --memory --variants ours-torch torch-naive

Uniform weights: what peers can do too. Ours packs documents into rows, as it trains;
peers have one document a row. The floor is the FLOPs of the products that a step cannot
do without, for real tokens only, at the rate that the fastest library reaches with the
head's own products in the same round, in the step's dtype. With `--memory` each runs
again in a process of its own, whose peak is taken.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks import floor, peers, workload
from benchmarks.runs import print_table
from benchmarks.timing import Times, rates, ratio, spread, take_turns
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.run.report import peak_of_process

ROUNDS_ALONE = 2


class Variant(NamedTuple):
    """One way to train.

    Attributes:
      make: of config and batches, the step (`peers.Step`).
      library: that multiplies.
      ours: whether it is one of our trainers, which packs.
    """

    make: Callable[..., peers.Step]
    library: str
    dtype: str = "float32"
    ours: bool = False

    @property
    def layout(self) -> str:
        return "packed" if self.ours else "padded"


def _torch(name: str, /, **options: Any) -> Callable[..., peers.Step]:
    """A maker of `torch_peers`, imported when it is asked for."""

    def make(
        cfg: Config, batches: list[Batch], held: dict[str, Any] | None = None
    ) -> peers.Step:
        import torch

        from benchmarks import torch_peers

        given = dict(options)
        if given.pop("compiled", False):
            given["wrap"] = torch.compile
        shared: dict[str, Any] = {}
        if name != "hf_trainer":  # it keeps its own
            shared["held"] = {} if held is None else held
        return getattr(torch_peers, name)(cfg, batches, **shared, **given)

    return make


BF16 = "bfloat16"
VARIANTS = {
    "ours": Variant(peers.ours, "jax", ours=True),
    "ours-bf16": Variant(peers.ours, "jax", BF16, ours=True),
    "ours-torch": Variant(_torch("ours_torch"), "torch", ours=True),
    "ours-torch-bf16": Variant(_torch("ours_torch"), "torch", BF16, ours=True),
    "jax-naive": Variant(peers.jax_naive, "jax"),
    "jax-cce": Variant(peers.jax_cce, "jax"),
    "torch-naive": Variant(_torch("torch_naive"), "torch"),
    "torch-naive-bf16": Variant(_torch("torch_naive", bfloat16=True), "torch", BF16),
    "torch-compile": Variant(_torch("torch_naive", compiled=True), "torch"),
    "hf-trainer": Variant(_torch("hf_trainer"), "torch"),
    "hf-trainer-bf16": Variant(_torch("hf_trainer", bfloat16=True), "torch", BF16),
}
SHORT = ("ours", "ours-torch", "ours-torch-bf16", "torch-naive", "torch-naive-bf16")


def main() -> None:
    parser = workload.parser(__doc__)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=SHORT)
    parser.add_argument("--memory", action="store_true", help="peaks, each alone")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    cfg, variants = workload.config(asked), {x: VARIANTS[x] for x in asked.variants}
    layouts = dict.fromkeys(variant.layout for variant in variants.values())
    given = {x: workload.batches_of(asked, cfg, x) for x in layouts}
    held: dict[str, Any] = {}  # models of torch that variants go on from in turn
    made = {}
    for name, variant in variants.items():
        arguments = _with_dtype(cfg, variant.dtype), given[variant.layout]
        shared = {"held": held} if variant.library == "torch" else {}
        made[name] = variant.make(*arguments, **shared)
    if asked.alone:
        for _ in range(ROUNDS_ALONE):
            for run in made.values():
                run()
        print(peak_of_process())
        return
    dtypes = dict.fromkeys(variant.dtype for variant in variants.values())
    by = floor.libraries(cfg, asked.batch * asked.length, dtypes)
    turns: dict[Any, Callable[[], Any]] = {**by, **made}
    counted: dict[Any, list] = {}
    times = take_turns(turns, rounds=asked.rounds, counted=counted)
    counted |= {x: [done.tokens for done in counted[x]] for x in variants}
    speeds = rates(times, counted)
    table = rows_of(variants, cfg, given, times, counted)
    if asked.memory:
        for row in table:
            row["peak GiB"] = peak_alone(row["step"])
    print(f"{workload.title(asked)}\n")
    for key in by:
        at = statistics.median(speeds[key]) / 1e9
        print(f"products by {' in '.join(key)}: {at:.0f} GFLOP/s")
    print()
    print_table(table, asked.json)
    print(*verdicts(variants, speeds), sep="\n")


def _with_dtype(cfg: Config, dtype: str) -> Config:
    return replace(cfg, machine=replace(cfg.machine, dtype=dtype))


def rows_of(
    variants: dict[str, Variant],
    cfg: Config,
    given: dict[str, list[Batch]],
    times: Times,
    counted: dict[Any, list],
) -> list[dict[str, Any]]:
    """The table: seconds, real tokens a second, and shares of the floor."""
    speeds = rates(times, counted)
    first, table = next(iter(variants)), []
    for name, variant in variants.items():
        batches = given[variant.layout]
        real = sum(map(peers.tokens_of, batches))
        least = sum(floor.step_flops(cfg, batch) for batch in batches) / real
        flops = [least * tokens for tokens in counted[name]]

        def share(library: str, name=name, variant=variant, flops=flops) -> str:
            key = library, variant.dtype
            of = floor.share_of_floor(times[name], flops, times[key], counted[key])
            return f"{of:.0%}"

        best = fastest(speeds, variant.dtype)
        row = {
            "step": name,
            **spread(times[name]),
            "tokens/s": round(statistics.median(speeds[name])),
            "padding": f"{padding(batches, name):.1%}",
            f"times {first}": round(ratio(speeds, name, first), 2),
            "of the floor": f"{share(best)} ({best})",
            "of its library's": share(variant.library),
        }
        table.append(row)
    return table


def fastest(speeds: Times, dtype: str) -> str:
    """The library that multiplies fastest in a dtype."""
    found = [key for key in speeds if key[1:] == (dtype,)]
    return max(found, key=lambda key: statistics.median(speeds[key]))[0]


def verdicts(variants: dict[str, Variant], speeds: Times) -> list[str]:
    """The best of ours against the best peer, in float32, and in whatever they have."""
    lines = []
    for words, dtypes in (
        ("in float32", ("float32",)),
        ("bfloat16 allowed", ("float32", BF16)),
    ):
        best = {}
        for side in (True, False):
            names = [
                name
                for name, variant in variants.items()
                if variant.ours == side and variant.dtype in dtypes
            ]
            speed = {name: statistics.median(speeds[name]) for name in names}
            best[side] = max(speed, key=speed.__getitem__, default=None)
        if all(best.values()):
            times = ratio(speeds, best[True], best[False])
            lines.append(f"{words}: {best[True]} is {times:.2f} times {best[False]}")
    return lines


def padding(batches: list, name: str) -> float:
    """Share of the positions that are padding; torch's rows end with the longest."""
    positions = 0
    for batch in batches:
        real_BL = batch.document_BL[0] > 0
        B, L = real_BL.shape
        if name.startswith(("torch", "hf")):
            L = int(real_BL.sum(axis=1).max())
        positions += B * L
    return 1 - sum(peers.tokens_of(batch) for batch in batches) / positions


def peak_alone(name: str) -> float:
    """GiB that a process of its own holds at most over a few steps."""
    options = [x for x in sys.argv[1:] if x != "--memory"]
    command = [sys.executable, "-m", "benchmarks.step_time", *options]
    command += ["--variants", name, "--alone"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed alone")
    return round(int(done.stdout.split()[-1]) / 1024**3, 2)


if __name__ == "__main__":
    main()
