"""What devices exchange in one training step, and what each of them holds.

    python -m benchmarks.collectives --devices 8 --batch 16 --length 256

Compiles the step for so many simulated devices of the CPU, for several ways to share
them out, and reads XLA's program: nothing is run, no array is made. Times of simulated
devices say nothing, and are not measured.
"""

import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks import workload
from benchmarks.runs import print_table
from shared.config.fields import Config

MIB = 1024**2

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
KINDS += ("collective-permute",)
BYTES = {"f32": 4, "bf16": 2, "f16": 2, "f64": 8, "s32": 4, "u32": 4, "pred": 1}
BYTES |= {"s64": 8, "u64": 8, "s8": 1, "u8": 1}
NAMED = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
CALLED = re.compile(
    r"(?:body|to_apply|calls|condition|true_computation|false_computation)="
    r"%?([\w.\-]+)|branch_computations=\{([^}]*)\}"
)
EXCHANGE = re.compile(
    r"= (.*?) (" + "|".join(KINDS) + r")(?:-start)?\((.*)",
)
GROUPS = re.compile(r"(?:replica_groups|source_target_pairs)=(\S+?),? ")
OF = re.compile(r'op_name="([^"]*)"')
# The body of the loop over the blocks of rows; a scan over heads calls its own.
BLOCKS = re.compile(r"shard_map/(?:.*/)?while/body/[\w\-]+$")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


class Exchange(NamedTuple):
    """One collective of a program.

    Attributes:
      kind: as XLA calls it.
      size: bytes that a device has of its result.
      loops: the loops that it stands in, outermost first.
      groups: the devices that take part, as XLA writes them.
      of: where in our program it comes from.
    """

    kind: str
    size: int
    loops: tuple[str, ...]
    groups: str
    of: str


def exchanges(program: str) -> list[Exchange]:
    """Every collective of a compiled program's text."""
    bodies, entry = _computations(program)
    found: list[Exchange] = []
    _walk(bodies, entry, (), found)
    return found


def _walk(
    bodies: dict[str, list[str]],
    name: str,
    loops: tuple[str, ...],
    found: list[Exchange],
) -> None:
    for line in bodies[name]:
        if match := EXCHANGE.search(line):
            result, kind, rest = match.groups()
            groups, of = GROUPS.search(rest), OF.search(rest)
            told = groups[1] if groups else "", of[1] if of else ""
            found.append(Exchange(kind, _size(result), loops, *told))
        is_loop = " while(" in line
        for called in _called(line):
            if called in bodies:
                inner = (*loops, called) if is_loop else loops
                _walk(bodies, called, inner, found)


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if match := NAMED.match(line):
            name = match[1]
            bodies[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _called(line: str) -> Iterator[str]:
    for one, several in CALLED.findall(line):
        yield from (x.strip().lstrip("%") for x in (several or one).split(","))


def _size(result: str) -> int:
    total = 0
    for kind, shape in ARRAY.findall(result):
        count = 1
        for n in filter(None, shape.split(",")):
            count *= int(n)
        total += BYTES.get(kind, 4) * count
    return total


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
