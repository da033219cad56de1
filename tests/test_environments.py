"""Each trainer, and the tests that need no other, where the other's library is not.

The normal run hides the library from a trainer. The slow one makes environments of
their own: pip installs what `pyproject.toml` asks for, as `constraints.txt` says.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import trained
from tests.cases import shorter_rows
from tests.test_layering import ROOT, imports, touches

JAX = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "orbax", "wmtp_jax")
TRAINER = "wmtp_torch_mps"
TORCH = ("torch", "torchgen", TRAINER)
# What this trains is compiled for other tests, too.
RUN = [*trained.SMALL, "--algo", "critic", "--train.max-steps", "2"]
RUN += ["--run-name", "one"]


# Then come the libraries, and command lines in JSON: main module and arguments.
HIDING = """
import json, runpy, sys
from importlib.machinery import PathFinder

hidden, lines = sys.argv[1].split(","), json.loads(sys.argv[2])

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        gone = name.split(".")[0] in hidden
        return None if gone else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
try:
    __import__(hidden[0])
except ModuleNotFoundError:
    pass
else:
    sys.exit(f"{hidden[0]} is not hidden")
for line in lines:
    sys.argv = line
    try:
        runpy.run_module(line[0], run_name="__main__")
    except SystemExit as done:
        if done.code:
            raise
"""


HIDDEN = [("wmtp_jax", TORCH), (TRAINER, JAX)]


@pytest.mark.parametrize("module, hidden", shorter_rows(HIDDEN, HIDDEN[:1]))
def test_a_trainer_trains_and_exports_while_the_others_library_is_hidden(
    module, hidden, tmp_path
):
    if find_spec("jax" if module == "wmtp_jax" else "torch") is None:
        pytest.skip(f"nothing here to run {module} with")

    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    train = [f"{module}.train", *RUN, "--output-dir", str(tmp_path), "--algo"]
    train += ["baseline"]  # `test_layering.py` reads the imports of all algorithms
    lines = json.dumps([train, [f"{module}.export", one, "--to", two]])
    done = subprocess.run(
        [sys.executable, "-c", HIDING, ",".join(hidden), lines],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "summary.json").is_file()
    assert (tmp_path / "two" / "training_state.json").is_file()


@cache
def imported_by(path: Path) -> frozenset[str]:
    return frozenset(imports(path.read_text(), "tests"))


def needs(path: Path, seen: set[Path]) -> set[str]:
    """Dotted names of all that a test file imports, itself or by files of the tests."""
    if path in seen:
        return set()
    seen.add(path)
    found = set(imported_by(path))
    for other in sorted(found):
        # A name may be of a file, or of something in it.
        for name in (other, other.rpartition(".")[0]):
            file = ROOT / f"{name.replace('.', '/')}.py"
            if name.startswith("tests.") and file.is_file():
                found |= needs(file, seen)
    return found


def files_without(*libraries: str) -> list[str]:
    """The test files that import none of the libraries."""
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    found = {path: needs(path, set()) for path in paths}
    return [
        path.relative_to(ROOT).as_posix()
        for path, imported in found.items()
        if not any(touches(x, library) for x in imported for library in libraries)
    ]


def test_many_test_files_need_one_trainer_alone():
    """Or the slow test below would show little."""
    without_torch, without_jax = files_without(*TORCH), files_without(*JAX)
    of_jax = {"tests/wmtp_jax/test_resume.py", "tests/tracking/test_tracking.py"}
    assert of_jax <= set(without_torch)
    names = ("test_trainer", "test_self_test")
    assert {f"tests/{TRAINER}/{name}.py" for name in names} <= set(without_jax)
    assert "tests/test_parity.py" not in (*without_torch, *without_jax)


def requirements(without: tuple[str, ...], extra: list[str]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [x for name in extra for x in project["optional-dependencies"][name]]
    return [
        need
        for need in project["dependencies"] + optional
        if re.match(r"[\w-]+", need)[0] not in without
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="the base install has torch there")
@pytest.mark.parametrize(
    "module, hidden, extra",
    [("wmtp_jax", TORCH, ["dev"]), (TRAINER, JAX, ["dev", "torch"])],
)
def test_one_trainer_alone(module, hidden, extra, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "*.egg-info"))

    def call(*arguments: str, **options) -> subprocess.CompletedProcess:
        command = [python, "-m", *arguments]
        return subprocess.run(command, cwd=source, **options)

    pip = ("pip", "install", "-q", "-c", "constraints.txt")
    without = hidden if module == TRAINER else ()
    call(*pip, *requirements(without, extra), check=True)
    call(*pip, "--no-deps", "-e", ".", check=True)
    for library in hidden[:2]:
        found = call("pip", "show", "-q", library, capture_output=True)
        assert found.returncode == 1, f"{library} has come in"
    call(f"{module}.train", *RUN, "--output-dir", str(tmp_path), check=True)
    assert (tmp_path / "one" / "summary.json").is_file()
    call("pytest", "-n", "2", *files_without(*hidden), check=True)
