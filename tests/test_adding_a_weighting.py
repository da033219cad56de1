"""`docs/adding_a_weighting.md`, done as it says: its blocks in a copy of the code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_layering import ROOT

PAGE = ROOT / "docs" / "adding_a_weighting.md"
PLACE = r"^`([\w/]+\.py)`, (?:before `([^`\n]+)`|new):\n\n"
BLOCK = re.compile(PLACE + r"```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = (
    "--model smoke --model.num-layers 1 --model.width 16 --heads 2 --tracking jsonl "
    "--train.max-steps 3 --train.eval-every 9 --train.save-every 9 --device cpu "
    "--data.max-length 32 --data.max-examples 20 --reference.epochs 1 "
    "--train.no-export --run-name "
).split()
RUNS = {
    "surprise": "--algo surprise",
    "shuffled": "--algo surprise --weighting.control shuffle",
    "rare": "--algo rare",
}
WEIGHTS = """
from shared.algorithms import help_text
from shared.comparison.grid.arms import arms_of
from tests import test_surprise

for control in ("none", "shuffle"):
    test_surprise.test_weights_are_those_of_plain_loops(control)
assert "surprise: targets weigh more that surprise a reference" in help_text()
names = [arm.name for arm in arms_of(["surprise"], ["shuffle"])]
assert {"surprise", "surprise+shuffle"} <= set(names), names
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the packages, with every block where the page puts it."""
    made = tmp_path_factory.mktemp("adding") / "tree"
    ignored = shutil.ignore_patterns("__pycache__", "minis_*")
    for folder in ("shared", "wmtp_jax", "wmtp_torch_mps"):
        shutil.copytree(ROOT / folder, made / folder, ignore=ignored)
    (made / "tests").mkdir()
    for name in ("oracle.py", "small.py"):
        shutil.copy(ROOT / "tests" / name, made / "tests" / name)
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    assert len(blocks) == PAGE.read_text("utf-8").count("```python")
    for name, beginning, block in blocks:
        put(made / name, beginning, block)
    return made


def put(path: Path, beginning: str, block: str) -> None:
    """Puts a block before the one line that begins so, or makes a file of it."""
    if not beginning:
        assert not path.exists() and not (ROOT / path.name).exists()
        path.write_text(block)
        return
    lines = path.read_text().splitlines(keepends=True)
    (at,) = [i for i, line in enumerate(lines) if line.startswith(beginning)]
    path.write_text("".join([*lines[:at], block, *lines[at:]]))


def python(tree: Path, folder: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def train(tree: Path, folder: Path, backend: str, runs: dict[str, str]) -> dict:
    """Trains in one process; the last row of each run's metrics."""
    asked = [[*OPTIONS, name, *more.split()] for name, more in runs.items()]
    lines = [f"from {backend} import train", f"for words in {asked!r}:"]
    lines.append("    assert train.main(words) == 0, words")
    python(tree, folder, "\n".join(lines))
    found = {}
    for name in runs:
        text = (folder / "runs" / name / "metrics.jsonl").read_text()
        found[name] = json.loads(text.splitlines()[-1])
    return found


def check(found: dict) -> None:
    for name, row in found.items():
        assert row["step"] == 3, name
        assert row["weight_mean"] == pytest.approx(1, abs=1e-3), name
        assert row["weight_min"] < 0.9 and row["weight_max"] > 1.1, name
    assert found["surprise"]["loss"] != found["shuffled"]["loss"]


def test_the_blocks_are_about_ten_lines():
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    first = [block for _, _, block in blocks[:2]]
    lines = [x for x in "".join(first).splitlines() if x.strip()]
    assert len(lines) <= 12


def test_weights_are_those_of_plain_loops(tree, tmp_path):
    python(tree, tmp_path, WEIGHTS)


def test_torch_trains_it(tree, tmp_path):
    check(train(tree, tmp_path, "wmtp_torch_mps", RUNS))


@pytest.mark.slow
def test_jax_trains_it(tree, tmp_path):
    check(train(tree, tmp_path, "wmtp_jax", RUNS))
