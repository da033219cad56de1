"""The hostile programs of `hostile/*.txt`, and whether a sandbox contains them."""

import time
from dataclasses import dataclass
from pathlib import Path

from shared.evaluation.sandbox import run_tests
from shared.evaluation.verdicts import Limits, Verdict
from shared.evaluation.walls.levels import Level
from tests.evaluation.world import World

FOLDER = Path(__file__).parent / "hostile"
FAMILIES = ("cheating", "time", "files", "processes", "resources", "network")
LIMITS = Limits(cpu_seconds=0.5, wall_seconds=1)
LONGEST = 3 * LIMITS.wall_seconds + 3  # both runs, and to clear away
# What a cheating program wants to pass; none may.
CHEATED = (
    "assert f(2) == 3",
    "assert abs(f(2) - 3) < 1e-6",
    "value = f(2)\nassert isinstance(value, int) and 2.5 < value < 3.5",
    "import math\nassert math.isclose(f(2), 3)",
)


@dataclass(frozen=True)
class Hostile:
    """One program and what it is about."""

    family: str
    name: str
    program: str


def hostiles() -> list[Hostile]:
    """All programs; in a file `### NAME` begins each."""
    found = []
    for family in FAMILIES:
        text = (FOLDER / f"{family}.txt").read_text("utf-8")
        for part in text.split("\n### ")[1:]:
            name, _, program = part.partition("\n")
            found.append(Hostile(family, name, program))
    return found


def some_of_each(count: int, without: set[str]) -> set[str]:
    """Names of so many programs of each family."""
    found: set[str] = set()
    for family in FAMILIES:
        names = [x.name for x in hostiles() if x.family == family]
        found |= set([name for name in names if name not in without][:count])
    return found


def attempt(
    hostile: Hostile, world: World, level: Level | None = None
) -> tuple[Verdict, list[str]]:
    """Runs a program: its verdict, and what was not contained."""
    if hostile.family == "cheating":
        tests: tuple[str, ...] = CHEATED
    else:
        tests = (f"assert attack() in ('through', {world.token!r})",)
    start = time.monotonic()
    program = world.constants() + hostile.program
    verdict = run_tests(program, tests, LIMITS, level=level)
    seconds = time.monotonic() - start
    escaped = world.changes()
    passed = [result.outcome == "passed" for result in verdict.results]
    if any(passed):
        escaped.append(f"the verdict: {verdict.results}")
    if seconds > LONGEST:
        escaped.append(f"{seconds:.1f} seconds")
    return verdict, escaped
