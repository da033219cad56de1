"""Hostile programs: each is contained, which is looked at from outside."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.evaluation.walls.levels import LADDER, SandboxError
from shared.evaluation.walls.probe import strongest, weakness
from tests.cases import shorter
from tests.evaluation.hostiles import FAMILIES, attempt, hostiles, some_of_each
from tests.evaluation.world import World

ROOT = Path(__file__).parents[2]
ALL = hostiles()
NAMES = [hostile.name for hostile in ALL]
# Those that take seconds, since they use up their limits of time.
LONG = {hostile.name for hostile in ALL if hostile.family == "time"} | {
    *("a list of ten million", "an answer of many megabytes", "code that is large"),
    *("keys that share one hash", "recursion without an end", "six gibibytes"),
    *("a tree that is deeper than can be walked", "a number of a million digits"),
    *("a pool of processes", "letters on the terminal"),
}
NORMAL = some_of_each(9, LONG) | {"a loop that no exception ends"}
MORE = {"two thousand threads", "the canary is written"}
PLAIN = sorted(some_of_each(2, LONG) | MORE)

try:
    strongest()
except SandboxError as error:
    pytest.skip(f"needs a sandbox: {error}", allow_module_level=True)


@pytest.fixture
def world(tmp_path):
    with World(tmp_path) as made:
        yield made


def test_there_are_at_least_sixty_in_six_families():
    assert len(ALL) >= 60 and len(set(NAMES)) == len(NAMES)
    assert {hostile.family for hostile in ALL} == set(FAMILIES)
    assert all(sum(x.family == family for x in ALL) >= 10 for family in FAMILIES)


@pytest.mark.parametrize("name", shorter(NAMES, NORMAL))
def test_is_contained(world, name):
    _, escaped = attempt(ALL[NAMES.index(name)], world)
    assert not escaped


@pytest.mark.skipif(sys.platform != "linux", reason="needs Landlock")
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_is_contained_without_namespaces(world, name):
    """Landlock does not cover `stat`: that a file is there can be seen."""
    if name == "the canary is there":
        pytest.skip("a known hole of this level")
    _, escaped = attempt(ALL[NAMES.index(name)], world, LADDER[-1])
    assert not escaped


def as_plain_user(*options: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "tests.evaluation.separate", "--plain", *options]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in told.stdout.splitlines()]
    if "skipped" in rows[0]:
        pytest.skip(f"a plain user has no sandbox here: {rows[0]['skipped']}")
    return rows


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second user")
@pytest.mark.parametrize("names", shorter([PLAIN, []], [PLAIN]), ids=len)
def test_is_contained_as_a_plain_user(names):
    rows = as_plain_user(*names)
    assert {row["name"] for row in rows} == set(names or NAMES)
    assert not [row for row in rows if row["escaped"]]


@pytest.mark.skipif(weakness(LADDER[-1]) != "", reason="needs Landlock of version 3")
def test_a_plain_user_needs_no_namespaces():
    names = ["open", "fork", "TCP", "the parent can be signalled"]
    rows = as_plain_user("--walls", ",".join(LADDER[-1].walls), *names)
    assert len(rows) == 4 and not [row for row in rows if row["escaped"]]
