"""What devices exchange in one training step, and what each of them holds.

    python -m benchmarks.collectives --model distilgpt2-shape --devices 8 \
        --batch 16 --length 256

Compiles the step for so many simulated devices of the CPU, for several ways to share
them out, and reads XLA's program: nothing is run, no array is made. Times of simulated
devices say nothing, and are not measured.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

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
            groups = re.search(
                r"(?:replica_groups|source_target_pairs)=(\S+?),? ", rest
            )
            of = re.search(r'op_name="([^"]*)"', rest)
            found.append(
                Exchange(
                    kind,
                    _size(result),
                    loops,
                    groups[1] if groups else "",
                    of[1] if of else "",
                )
            )
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
