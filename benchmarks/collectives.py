"""What devices exchange in one training step, and what each of them holds.

    python -m benchmarks.collectives --devices 8 --batch 16 --length 256

Compiles the step for so many simulated devices of the CPU, for several ways to share
them out, and reads XLA's program: nothing is run, no array is made. Times of simulated
devices say nothing, and are not measured.
"""

import os
from typing import Any

from benchmarks import workload
from benchmarks.programs import BLOCKS, exchanges
from benchmarks.runs import print_table
from shared.config.fields import Config

MIB = 1024**2


def main() -> None:
    parser = workload.parser(__doc__, batch=16, length=256, device="cpu")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--algo", choices=workload.ALGOS, default="baseline")
    asked = parser.parse_args()
    count = f"--xla_force_host_platform_device_count={asked.devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {count}"
    cfg = workload.config(asked, asked.algo)
    # Compiled on one device first: what all the others are measured against.
    rows = [row(cfg, (1, 1, 1)), *(row(cfg, x) for x in ways(asked.devices))]
    print_table(rows, asked.json)


def ways(count: int) -> list[tuple[int, int, int]]:
    """`(data, fsdp, tensor)`: each alone, and two of them by two."""
    alone = [(count, 1, 1), (1, count, 1), (1, 1, count)]
    return [*alone, (1, count // 2, 2), (count // 4, 2, 2)]


def row(cfg: Config, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """What one device holds and exchanges in a step, shared out like this."""
    import jax

    from wmtp_jax import sharding
    from wmtp_jax.optimizer import make_optimizer
    from wmtp_jax.state import abstract_state
    from wmtp_jax.step import abstract_batch, make_train_step

    tx, (data, fsdp, tensor) = make_optimizer(cfg, 1000), sizes
    devices = jax.devices()[: data * fsdp * tensor]
    mesh = sharding.mesh_of(devices, fsdp=fsdp, tensor=tensor)
    jitted, _ = make_train_step(cfg, tx, 1000, mesh)
    compiled = jitted.lower(abstract_state(cfg, tx), abstract_batch(cfg)).compile()
    memory, told = compiled.memory_analysis(), exchanges(compiled.as_text())
    of_pass = [x for x in told if "shard_map" in x.of]
    inside = [x.size for x in of_pass if BLOCKS.search(x.of)]
    largest = max(told, key=lambda x: x.size, default=None)
    return {
        "data x fsdp x tensor": " x ".join(map(str, sizes)),
        "state MiB": round(memory.argument_size_in_bytes / MIB),
        "temporary MiB": round(memory.temp_size_in_bytes / MIB),
        "exchanges": len(told),
        "largest MiB": round(largest.size / MIB, 1) if largest else 0,
        "in the blocks' loops": len(inside),
        "KiB at most": round(max(inside, default=0) / 1024, 1),
    }


if __name__ == "__main__":
    main()
