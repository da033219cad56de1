"""What a trainer holds: its resident memory, sampled while it trains.

    python -m benchmarks.memory --trainer wmtp_jax --batch 8 --length 256 --steps 20
    python -m benchmarks.memory --trainer wmtp_torch_mps --batch 8 --length 256
    python -m benchmarks.memory --trainer wmtp_jax --run --algo critic \
        --model distilgpt2-shape --data.batch-size 2 --data.max-length 128

A process of its own makes the state, the step and so many updates of dense random rows;
this one samples its resident size every 50 ms. After `--run` follow options of
`python -m TRAINER.train`: then a whole run is watched, line by line of what it prints.
Linux only: sizes are read from /proc.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.runs import print_table
from shared.config.fields import Config
from shared.run.freed_memory import keep_freed_memory

GIB = 1024**3
EVERY = 0.05  # seconds between samples
TRAINERS = ("wmtp_jax", "wmtp_torch_mps")
SILENT = re.compile(r"^\s*$|[│╭╰━]")  # of a run's lines, those that say nothing


def main() -> None:
    parser = workload.parser(__doc__, batch=8, rounds=0)
    parser.add_argument("--trainer", choices=TRAINERS, default="wmtp_jax")
    parser.add_argument("--algo", choices=workload.ALGOS, default="baseline")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--run", nargs=argparse.REMAINDER, help="watch a whole run")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        {"wmtp_jax": jax_steps, "wmtp_torch_mps": torch_steps}[asked.trainer](asked)
    elif asked.run is not None:
        command = [sys.executable, "-m", f"{asked.trainer}.train", *asked.run]
        lines, samples = watch(command)
        marks = [(at, text) for at, text in lines if not SILENT.search(text)]
        print_table(timeline(marks, samples), asked.json)
    else:
        watch_steps(asked)


def watch_steps(asked: argparse.Namespace) -> None:
    """The table of parts, and the size after each step."""
    command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--inside"]
    lines, samples = watch(command)
    told = [(at, json.loads(text)) for at, text in lines if text.startswith("{")]
    marks = [(at, row["mark"]) for at, row in told if "mark" in row]
    parts = {row["part"]: row["bytes"] for _, row in told if "part" in row}
    print(f"{asked.trainer}, {asked.shape}, {asked.batch} x {asked.length}\n")
    print_table(timeline(marks, samples), asked.json)
    peak = max(size for _, size in samples)
    steps = [at for at, text in marks if text.startswith("step ")]
    seconds = sorted(b - a for a, b in pairwise(steps[1:]))
    middle = f"{seconds[len(seconds) // 2]:.2f}" if seconds else "-"
    print(f"\npeak {peak / GIB:.2f} GiB; median of steps 3.. {middle} s\n")
    counted = {name: size for name, size in parts.items() if name[0] != "("}
    rest = {"everything else at the peak": peak - sum(counted.values())}
    table = [
        {"what": name, "GiB": round(size / GIB, 2)}
        for name, size in (parts | rest).items()
    ]
    print_table(table, None)


def watch(
    command: list[str],
) -> tuple[list[tuple[float, str]], list[tuple[float, int]]]:
    """Runs it: `(its lines, its sizes in bytes)`, each with the time it was seen."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},  # lines as they are written
        text=True,
    )
    lines: list[tuple[float, str]] = []

    def read() -> None:
        for line in process.stdout or ():
            lines.append((time.perf_counter(), line.rstrip()))

    reader = threading.Thread(target=read)
    reader.start()
    samples = []
    while process.poll() is None:
        if size := resident(process.pid):
            samples.append((time.perf_counter(), size))
        time.sleep(EVERY)
    reader.join()
    if process.stdout:
        process.stdout.close()
    if process.returncode:
        print("\n".join(text for _, text in lines), file=sys.stderr)
        raise SystemExit(f"failed: {' '.join(command)}")
    return lines, samples


def resident(process: int | str = "self") -> int:
    """Bytes of a process in memory, 0 once it has ended."""
    status = Path(f"/proc/{process}/status").read_text("ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def timeline(
    marks: list[tuple[float, str]], samples: list[tuple[float, int]]
) -> list[dict[str, Any]]:
    """A row for each mark: the largest size since the last one, and that after it."""
    rows, since, first = [], 0.0, samples[0][0]
    for at, text in marks:
        between = [size for when, size in samples if since <= when <= at]
        after = [size for when, size in samples if when >= at]
        if between:
            row = {"until": text[:72], "s": round(at - first, 1)}
            row["peak GiB"] = round(max(between) / GIB, 2)
            row["then GiB"] = round((after or between[-1:])[0] / GIB, 2)
            rows.append(row)
        since = at
    return rows


# What runs in the process that is watched.


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def part(name: str, size: float) -> None:
    """A size to be shown; one in brackets is of another part."""
    say(part=name, bytes=int(size))


def jax_steps(asked: argparse.Namespace) -> None:
    """`wmtp_jax`: as `train` makes and calls its step."""
    import jax

    from wmtp_jax import sharding
    from wmtp_jax.optimizer import make_optimizer
    from wmtp_jax.state import make_state
    from wmtp_jax.step import make_train_step

    cfg = workload.config(asked, asked.algo)
    mesh, tx = sharding.make_mesh(cfg), make_optimizer(cfg, 1000)
    part("runtime and libraries", resident())
    say(mark="imports")
    state = jax.device_put(make_state(cfg, tx), sharding.replicated(mesh))
    jax.block_until_ready(state)
    say(mark="state")
    jitted, _ = make_train_step(cfg, tx, 1000, mesh)
    batches = workload.batches_of(asked, cfg, "packed")
    before = resident()
    step = jitted.lower(state, batches[0]).compile()
    part("compiled step, of its compiler", resident() - before)
    say(mark="compiled")
    tell_parts(cfg, state, step)
    held = [state]
    del state

    def update(batch: Any) -> float:
        held[0], metrics = step(held[0], batch)
        return float(metrics["loss"])  # waits for it

    take_steps(asked, update, batches)


def tell_parts(cfg: Config, state: Any, step: Any) -> None:
    """Sizes of a state, and what XLA says of its compiled step."""
    import jax

    from wmtp_jax.row_blocks import block_sizes

    trees = {"parameters": state.params, "moments": state.opt_state}
    sizes = {
        name: sum(x.nbytes for x in jax.tree.leaves(tree))
        for name, tree in trees.items()
    }
    for name, size in sizes.items():
        part(name, size)
    memory, data = step.memory_analysis(), cfg.data
    V, D = cfg.model.vocab_size, cfg.model.width
    block = 4 * V * block_sizes(data.batch_size * data.max_length, V, D)[0]
    temporary, gradient = memory.temp_size_in_bytes, sizes["parameters"]
    part("temporary in a step (XLA)", temporary)
    part("(gradient)", gradient)
    part("(head block)", block)
    part("(activations and the rest)", temporary - gradient - block)
    part("(state that the step reuses)", memory.alias_size_in_bytes)


def torch_steps(asked: argparse.Namespace) -> None:
    """`wmtp_torch_mps`: the same."""
    import torch

    from wmtp_torch_mps.device import find_device
    from wmtp_torch_mps.state import make_state
    from wmtp_torch_mps.step import train_step
    from wmtp_torch_mps.unembed import block_rows

    cfg = workload.config(asked, asked.algo)
    device = find_device(cfg)
    torch.zeros(1, device=device)
    part("runtime and libraries", resident())
    say(mark="imports")
    state = make_state(cfg, device)
    say(mark="state")
    batches = workload.batches_of(asked, cfg, "packed")
    size = sum(x.numel() * x.element_size() for x in state.params.parameters())
    part("parameters", size)
    part("moments", 2 * size)
    part("gradient", size)
    rows = block_rows(asked.batch * asked.length, cfg.model.vocab_size)
    part("head block", 4 * rows * cfg.model.vocab_size)

    def update(batch: Any) -> float:
        return float(train_step(state, batch, 1000)[1]["loss"])

    take_steps(asked, update, batches)


def take_steps(
    asked: argparse.Namespace, update: Callable[[Any], float], batches: list[Any]
) -> None:
    """So many updates, each told when it is done."""
    for number in range(asked.steps):
        keep_freed_memory()
        loss = update(batches[number % len(batches)])
        say(mark=f"step {number + 1}, loss {loss:.4f}")


if __name__ == "__main__":
    main()
