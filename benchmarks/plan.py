"""What models of 1B, 7B and 70B take of 8, 64 and 256 devices: XLA's count and ours.

    python -m benchmarks.plan --json plan.json
    python -m benchmarks.plan --only 7b:1x64x1 --dtypes bfloat16

Compiles the training step for so many simulated devices of the CPU, from shapes only:
nothing is run, no array is made. Of each step: what XLA says that a device holds and
exchanges, and what `formulas.py` says. docs/scaling.md has the table and what it means.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import formulas, programs, workload
from benchmarks.formulas import Shares
from benchmarks.runs import print_table
from shared.config.fields import Config
from shared.run.command_line import parse

GIB, MIB, GB = 1024**3, 1024**2, 1e9
LLAMA_2 = [*workload.LLAMA, "--model.no-tie-embeddings"]
# From their config.json: Llama-3.2-1B, Llama-2-7B, Llama-2-70B.
MODELS = {
    "1b": workload.SHAPES["llama-1b"],
    "7b": [
        *(*LLAMA_2, "--model.num-layers", "32", "--model.width", "4096"),
        *("--model.num-attention-heads", "32", "--model.num-kv-heads", "32"),
        *("--model.ffn-width", "11008", "--model.vocab-size", "32000"),
    ],
    "70b": [
        *(*LLAMA_2, "--model.num-layers", "80", "--model.width", "8192"),
        *("--model.num-attention-heads", "64", "--model.num-kv-heads", "8"),
        *("--model.ffn-width", "28672", "--model.vocab-size", "32000"),
    ],
}
PLANS = ("1b:1x8x1", "7b:1x8x1", "70b:1x8x1", "1b:8x8x1", "7b:1x64x1", "70b:1x64x1")
PLANS += ("70b:1x8x8", "1b:32x8x1", "7b:4x64x1", "70b:1x256x1", "70b:1x32x8")
BYTES = {"bfloat16": 2, "float32": 4}
# Machine code is not made well, which takes most of the time, and never run.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=PLANS, help="MODEL:DATAxFSDPxTENSOR"
    )
    parser.add_argument("--dtypes", nargs="+", choices=tuple(BYTES), default=[*BYTES])
    parser.add_argument("--length", type=int, default=4096, help="positions L")
    parser.add_argument("--rows", type=int, default=1, help="of a device, r")
    parser.add_argument("--no-compile", action="store_true", help="only by formula")
    parser.add_argument("--json", help="also write the rows to this file")
    asked = parser.parse_args()
    wanted = [(name, dtype) for dtype in asked.dtypes for name in asked.only]
    most = max(shares_of(name).devices for name, _ in wanted)
    see_devices(most)
    rows: list[dict[str, Any]] = []
    for name, dtype in wanted:
        cfg, shares = config(name, dtype, asked.length, asked.rows), shares_of(name)
        shares = Shares(shares.data, shares.fsdp, shares.tensor, BYTES[dtype])
        xla = None if asked.no_compile else by_xla(cfg, shares)
        row = {"plan": name, "dtype": dtype} | columns(by_formula(cfg, shares), xla)
        rows.append(row)
        print(json.dumps(row), flush=True)
    print()
    print_table(rows, asked.json)


def see_devices(count: int) -> None:
    """JAX finds so many devices, if it has not looked for any yet."""
    flags = f"--xla_force_host_platform_device_count={count} {QUICK}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


def shares_of(name: str) -> Shares:
    """Of `MODEL:DATAxFSDPxTENSOR`."""
    return Shares(*map(int, name.partition(":")[2].split("x")))


def config(name: str, dtype: str, length: int = 4096, rows: int = 1) -> Config:
    """The trainer's config, as the command in docs/scaling.md has it."""
    shares = shares_of(name)
    options = [
        *MODELS[name.partition(":")[0]],
        *("--heads", "4", "--head-type", "linear", "--algo", "baseline"),
        *("--data.max-length", length),
        *("--data.batch-size", rows * shares.data * shares.fsdp),
        *("--machine.dtype", dtype, "--machine.rematerialise", "layer"),
        *("--machine.attention", "blocks", "--machine.fsdp", shares.fsdp),
        *("--machine.tensor", shares.tensor, "--device", "cpu"),
    ]
    return parse(list(map(str, options)), "benchmarks").config


def by_formula(cfg: Config, shares: Shares) -> dict[str, Any]:
    """Bytes, FLOPs and seconds of a step on one device.

    Sums of layers are counted as XLA's CPU backend makes them, which also copies their
    pieces (`and copy`); seconds as the GPU's.
    """
    found = formulas.memory(cfg, shares)
    return {
        "state": found["state"],
        "temporary": found["temporary"],
        "and copy": found["temporary"] + found["copy of layers"],
        **formulas.exchanged(cfg, shares, scattered=False),
        "flops": formulas.products(cfg, shares, blocks=True),
        "needed": formulas.needed(cfg) / shares.devices,
        "seconds": formulas.seconds(cfg, shares, formulas.Machines()),
    }


def by_xla(cfg: Config, shares: Shares) -> dict[str, Any]:
    """The same as XLA says it of the compiled program, and its largest exchanges."""
    before = time.perf_counter()
    compiled = compiled_step(cfg, shares)
    took = time.perf_counter() - before
    memory, text = compiled.memory_analysis(), compiled.as_text()
    told = list(received(text, shares))
    sizes = {
        "largest": [x.size for x, *_ in told],
        "in layers": [x.size for x, *_ in told if x.loops and "shard_map" not in x.of],
        "in heads": [x.size for x, *_ in told if programs.BLOCKS.search(x.of)],
    }
    return {
        "state": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "output": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        **{
            over: sum(size for _, axis, size in told if axis == over)
            for over in ("fsdp", "tensor")
        },
        "flops": programs.product_flops(text, unknown_turns(cfg, shares)),
        **{name: max(of, default=0) for name, of in sizes.items()},
        "heads over": sorted({at for x, at, _ in told if programs.BLOCKS.search(x.of)}),
        "compiled in": took,
    }


def columns(ours: dict[str, Any], xla: dict[str, Any] | None) -> dict[str, Any]:
    """Of the table: what is by formula, and by XLA."""
    row: dict[str, Any] = {
        "state GiB": round(ours["state"] / GIB, 3),
        "temporary GiB": round(ours["temporary"] / GIB, 3),
        "and copy GiB": round(ours["and copy"] / GIB, 3),
        "GB over fsdp": round(ours["fsdp"] / GB, 2),
        "GB over tensor": round(ours["tensor"] / GB, 2),
        "TFLOP": round(ours["flops"] / 1e12, 1),
        "TFLOP needed": round(ours["needed"] / 1e12, 1),
        **{f"s of {name}": round(x, 3) for name, x in ours["seconds"].items()},
    }
    if xla is None:
        return row
    return row | {
        "XLA arguments GiB": round(xla["state"] / GIB, 3),
        "XLA temporary GiB": round(xla["temporary"] / GIB, 3),
        "XLA output, not in place GiB": round(xla["output"] / GIB, 3),
        "XLA GB over fsdp": round(xla["fsdp"] / GB, 2),
        "XLA GB over tensor": round(xla["tensor"] / GB, 2),
        "XLA TFLOP": round(xla["flops"] / 1e12, 1),
        "largest MiB": round(xla["largest"] / MIB, 1),
        "layers' loops: MiB": round(xla["in layers"] / MIB, 1),
        "heads' loops: KiB": round(xla["in heads"] / 1024),
        "heads' loops: over": ", ".join(xla["heads over"]) or "-",
        "s to compile": round(xla["compiled in"]),
    }


def compiled_step(cfg: Config, shares: Shares) -> Any:
    """The training step as XLA has compiled it for the first of the devices."""
    import jax

    from wmtp_jax import sharding
    from wmtp_jax.optimizer import make_optimizer
    from wmtp_jax.state import abstract_state
    from wmtp_jax.step import abstract_batch, make_train_step

    tx, devices = make_optimizer(cfg, 1000), jax.devices()[: shares.devices]
    mesh = sharding.mesh_of(devices, fsdp=shares.fsdp, tensor=shares.tensor)
    jitted, _ = make_train_step(cfg, tx, 1000, mesh)
    return jitted.lower(abstract_state(cfg, tx), abstract_batch(cfg)).compile()


def received(
    text: str, shares: Shares
) -> Iterator[tuple[programs.Exchange, str, float]]:
    """Every exchange of a step, its axis, and the bytes that a device gets by it.

    `fsdp` stands for `data` x `fsdp`, whose devices lie further apart; of a group of
    one device nothing is said.
    """
    for x in programs.exchanges(text):
        group = programs.members(x.groups)
        if (count := len(group)) == 1:
            continue
        axis = "tensor" if max(group) - min(group) < shares.tensor else "fsdp"
        times = {"all-reduce": 2 * (count - 1) / count, "reduce-scatter": count - 1}
        yield x, axis, x.turns * x.size * times.get(x.kind, (count - 1) / count)


def unknown_turns(cfg: Config, shares: Shares) -> programs.Unknown:
    """Turns of the loops whose bounds depend on the data: rows full, documents of L."""
    from wmtp_jax.block_attention import BLOCK
    from wmtp_jax.row_blocks import block_sizes

    L, V, D = cfg.data.max_length, cfg.model.vocab_size, cfg.model.width
    blocks, rows = -(-L // BLOCK), formulas.rows(cfg, shares) * L
    whole = block_sizes(rows, V // shares.tensor, D)[0]

    def turns(of: str) -> float:
        if "shard_map" in of:
            return (rows - 1) // whole
        again = "rematted" in of or "checkpoint" not in of  # a forward pass
        return (blocks - 1) / 2 if again else (blocks + 1) / 2

    return turns


if __name__ == "__main__":
    main()
