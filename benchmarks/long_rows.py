"""What attention and layers hold as rows grow, at the same number of tokens a step.

    python -m benchmarks.long_rows                     # wmtp_jax, 4096 tokens a step
    python -m benchmarks.long_rows --trainer wmtp_torch_mps
    python -m benchmarks.long_rows --lengths 8192 --tokens 8192 --no-whole --rounds 0

Each variant (whole attention or in blocks, layers kept or computed again) makes the
same steps over rows full of packed documents of `--document` tokens on average; 0 makes
every row one document. `wmtp_jax` is compiled, and `temporary` is what XLA says its
step needs beside the state: exact, and known before anything runs. Variants of one
length take turns in one process; `--rounds 0` runs nothing. `wmtp_torch_mps` runs each
variant in a process of its own, whose peak of resident memory is read.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import workload
from benchmarks.runs import print_table
from benchmarks.timing import take_turns
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.data.packing import documents_per_row

MIB = 1024**2
WHOLE = {"wmtp_jax": "xla", "wmtp_torch_mps": "sdpa"}


def main() -> None:
    parser = workload.parser(
        __doc__, shape="smollm2-135m", head_type="medusa", rounds=2
    )
    parser.add_argument("--trainer", choices=WHOLE, default="wmtp_jax")
    parser.add_argument("--lengths", type=int, nargs="+", default=None)
    parser.add_argument("--tokens", type=int, default=4096, help="of a step")
    parser.add_argument("--document", type=int, default=200, help="tokens; 0: a row")
    parser.add_argument("--no-whole", action="store_true", help="leave it out")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        torch_inside(asked, **json.loads(asked.inside))
        return
    lengths = asked.lengths or [128, 256, 512, 1024, 2048, 4096]
    measure = {"wmtp_jax": jax_rows, "wmtp_torch_mps": torch_rows}[asked.trainer]
    print(f"{asked.trainer}, {asked.shape}, {asked.tokens} tokens a step\n")
    table = [row for L in lengths for row in measure(asked, L)]
    print_table(table, asked.json)


def variants(asked: argparse.Namespace, L: int) -> dict[str, Config]:
    """By name, whole attention first."""
    args = {**vars(asked), "batch": max(1, asked.tokens // L), "length": L}
    cfg = workload.config(argparse.Namespace(**args))
    ways = {"blocks": "blocks"}
    if not asked.no_whole:
        ways = {"whole": WHOLE[asked.trainer], **ways}
    return {
        f"{way}{', again' if again == 'layer' else ''}": replace(
            cfg, machine=replace(cfg.machine, attention=name, rematerialise=again)
        )
        for way, name in ways.items()
        for again in ("none", "layer")
    }


def packed_batch(cfg: Config, document: int) -> Batch:
    """One step `[1, B, L]` of rows that documents fill; NumPy."""
    most = documents_per_row(cfg.data.max_length, "packed")
    batch, rng = workload.dense_batch(cfg), np.random.default_rng(0)
    document_BL, positions_BL, target_BL = (
        np.zeros(batch.tokens_BL.shape[1:], kind) for kind in ("i4", "i4", bool)
    )
    L = document_BL.shape[1]
    for numbers, positions, targets in zip(
        document_BL, positions_BL, target_BL, strict=True
    ):
        at = number = 0
        while at < L:
            number += 1
            n = 16 + int(rng.exponential(document)) if document and number < most else L
            end = min(L, at + n)
            numbers[at:end], positions[at:end] = number, np.arange(end - at)
            targets[at + 1 : end] = True
            at = end
    return replace(
        batch,
        num_documents=most,
        document_BL=document_BL[None],
        positions_BL=positions_BL[None],
        target_BL=target_BL[None],
    )


def columns(L: int, cfg: Config, name: str) -> dict[str, Any]:
    return {"L": L, "rows": cfg.data.batch_size, "variant": name}


def jax_rows(asked: argparse.Namespace, L: int) -> list[dict[str, Any]]:
    """One row of the table for each variant."""
    import jax

    from wmtp_jax import sharding
    from wmtp_jax.optimizer import make_optimizer
    from wmtp_jax.state import abstract_state, make_state
    from wmtp_jax.step import make_train_step

    compiled, made = {}, variants(asked, L)
    batch = packed_batch(next(iter(made.values())), asked.document)
    for name, cfg in made.items():
        tx, mesh = make_optimizer(cfg, 1000), sharding.make_mesh(cfg)
        jitted, _ = make_train_step(cfg, tx, 1000, mesh)
        compiled[name] = jitted.lower(abstract_state(cfg, tx), batch).compile()
    table = [
        columns(L, made[name], name)
        | {"temporary MiB": step.memory_analysis().temp_size_in_bytes // MIB}
        for name, step in compiled.items()
    ]
    if not asked.rounds:
        return table
    state = jax.device_put(make_state(cfg, tx), sharding.replicated(mesh))
    held = [state]

    def update(step: Any) -> None:
        held[0], metrics = step(held[0], batch)
        float(metrics["loss"])

    times = take_turns(
        {n: partial(update, step) for n, step in compiled.items()}, rounds=asked.rounds
    )
    return with_seconds(table, times)


def with_seconds(table: list[dict[str, Any]], times: dict) -> list[dict[str, Any]]:
    """Each variant's median, and over that of the first."""
    medians = [statistics.median(of) for of in times.values()]
    return [
        row | {"s": round(s, 2), "over the first": round(s / medians[0], 2)}
        for row, s in zip(table, medians, strict=True)
    ]


def torch_rows(asked: argparse.Namespace, L: int) -> list[dict[str, Any]]:
    """The same, each variant measured in a process of its own."""
    table, times = [], {}
    for name, cfg in variants(asked, L).items():
        told = {"length": L, "variant": name}
        command = [sys.executable, "-m", "benchmarks.long_rows", *sys.argv[1:]]
        command += ["--inside", json.dumps(told)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        table.append(columns(L, cfg, name) | {"step MiB": found["bytes"] // MIB})
        times[name] = found["seconds"]
    return with_seconds(table, times)


def torch_inside(asked: argparse.Namespace, length: int, variant: str) -> None:
    """Prints what the steps took beyond what the process held before the first."""
    from benchmarks.memory import resident
    from shared.run.report import peak_of_process
    from wmtp_torch_mps.device import find_device
    from wmtp_torch_mps.state import make_state
    from wmtp_torch_mps.step import train_step

    cfg = variants(asked, length)[variant]
    state = make_state(cfg, find_device(cfg))
    batch, before = packed_batch(cfg, asked.document), resident()

    def update() -> None:
        float(train_step(state, batch, 1000)[1]["loss"])

    rounds = max(1, asked.rounds)
    seconds = take_turns({variant: update}, rounds=rounds)[variant]
    print(json.dumps({"bytes": peak_of_process() - before, "seconds": seconds}))


if __name__ == "__main__":
    main()
