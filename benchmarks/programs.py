"""What XLA's text of a compiled program says: what is exchanged, and multiplied.

XLA's own cost analysis counts the body of a loop once. Here a loop counts as often as
it turns, where XLA knows that; else once, or as often as the caller says.
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

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
GROUPS = re.compile(
    r"(?:replica_groups|source_target_pairs)="
    r"(mesh\[[^\]]*\](?:, device_ids=\(\S+\))? \{[^}]*\}|\S+?),? "
)
OF = re.compile(r'op_name="([^"]*)"')
# The body of the loop over the blocks of rows; a scan over heads calls its own.
BLOCKS = re.compile(r"shard_map/(?:.*/)?while/body/[\w\-]+$")
TURNS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
DEFINED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\w+\[[\d,]*\])")
DOT = re.compile(r"= (\S+) dot\(%?([\w.\-]+),.*?lhs_contracting_dims=\{([\d,]*)\}")

Bodies = dict[str, list[str]]
Unknown = Callable[[str], float]  # op_name of a loop -> its turns


class Exchange(NamedTuple):
    """One collective of a program.

    Attributes:
      kind: as XLA calls it.
      size: bytes that a device has of its result.
      loops: the loops that it stands in, outermost first.
      groups: the devices that take part, as XLA writes them.
      of: where in our program it comes from.
      turns: how often it is made, as far as XLA knows the turns of its loops.
    """

    kind: str
    size: int
    loops: tuple[str, ...]
    groups: str
    of: str
    turns: int = 1


def exchanges(program: str) -> list[Exchange]:
    """Every collective of a compiled program's text."""
    bodies, entry = _computations(program)
    found: list[Exchange] = []
    _walk(bodies, entry, (), 1, found)
    return found


def _walk(
    bodies: Bodies,
    name: str,
    loops: tuple[str, ...],
    turns: int,
    found: list[Exchange],
) -> None:
    for line in bodies[name]:
        if match := EXCHANGE.search(line):
            result, kind, rest = match.groups()
            groups, of = GROUPS.search(rest), OF.search(rest)
            told = groups[1] if groups else "", of[1] if of else ""
            found.append(Exchange(kind, _size(result), loops, *told, turns))
        is_loop = " while(" in line
        for called in _called(line):
            if called in bodies:
                inner = (*loops, called) if is_loop else loops
                _walk(bodies, called, inner, turns * (_turns(line) or 1), found)


def _turns(line: str) -> int | None:
    """Of the loop that a line is; None if it is none, or one that XLA cannot tell."""
    known = TURNS.search(line) if " while(" in line else None
    return int(known[1]) if known else None


def _computations(program: str) -> tuple[Bodies, str]:
    bodies: Bodies = {}
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
    return sum(
        BYTES.get(kind, 4) * math.prod(_numbers(shape))
        for kind, shape in ARRAY.findall(result)
    )


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def members(groups: str) -> list[int]:
    """The devices of the first group, of any of XLA's three ways to write groups.

        {{0,1},{2,3}}    [2,4]<=[4,2]T(1,0)    mesh['axis_0'=2,'axis_1'=4] {'axis_0'}

    Raises:
      ValueError: if it is a fourth.
    """
    if match := re.match(r"\{\{([\d,]*)\}", groups):
        return _numbers(match[1])
    if match := re.fullmatch(r"\[([\d,]+)\]<=(\[.*)", groups):
        ids = _iota(match[2]).reshape(_numbers(match[1]))
        return list(map(int, ids[0]))
    if match := re.fullmatch(
        r"mesh\[(.*?)\](?:, device_ids=\((.*)\))? \{('\w+'(?:,'\w+')*)\}", groups
    ):
        axes = re.findall(r"'(\w+)'=(\d+)", match[1])
        sizes = [int(size) for _, size in axes]
        ids = _iota(match[2] or f"[{math.prod(sizes)}]").reshape(sizes)
        named = re.findall(r"\w+", match[3])
        at = tuple(slice(None) if name in named else 0 for name, _ in axes)
        return list(map(int, ids[at].reshape(-1)))
    raise ValueError(f"groups of devices must be of a known form, got {groups!r}")


def _iota(text: str) -> np.ndarray:
    """`[4,2]T(1,0)`: numbers in order, in that shape, turned."""
    shape, _, turned = text.strip("[]()").partition("]T(")
    sizes = _numbers(shape)
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(_numbers(turned)) if turned else ids


def product_flops(program: str, unknown: Unknown = lambda of: 1) -> float:
    """2 for each multiply-add of the matrix products that one device makes.

    Of branches the largest counts.

    Args:
      unknown: turns of a loop, by its op_name, where XLA does not know them.
    """
    bodies, entry = _computations(program)
    known: dict[str, float] = {}

    def of(name: str) -> float:
        if name not in known:
            shapes = dict(x.groups() for x in map(DEFINED.match, bodies[name]) if x)
            known[name] = sum(_of_line(line, shapes) for line in bodies[name])
        return known[name]

    def _of_line(line: str, shapes: dict[str, str]) -> float:
        if match := DOT.search(line):
            result, left, contracted = match.groups()
            sizes = _numbers(ARRAY.findall(shapes[left])[0][1])
            inner = math.prod(sizes[i] for i in _numbers(contracted))
            return 2.0 * inner * math.prod(_numbers(ARRAY.findall(result)[0][1]))
        inside = [of(x) for x in _called(line) if x in bodies]
        if " conditional(" in line:
            return max(inside, default=0.0)
        times: float = 1
        if " while(" in line:
            told = OF.search(line)
            times = _turns(line) or unknown(told[1] if told else "")
        return times * sum(inside)

    return of(entry)
