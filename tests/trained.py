"""Short runs of either trainer from the command line, for the tests of both.

The run of an algorithm that nothing ever stopped (the fixture `whole_run`) is made once
per test run, by whoever asks first, and only read; a test that harms one or goes on
takes a copy.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

STEPS, SAVE_EVERY, EVAL_EVERY = 12, 3, 6
MODEL = "--model smoke --model.num-layers 1 --model.width 16 --heads 2".split()
PACE = (
    "--data.max-length 32 --tracking jsonl --device cpu --train.keep-checkpoints 99 "
    f"--train.max-steps {STEPS} --train.save-every {SAVE_EVERY} "
    f"--train.eval-every {EVAL_EVERY} --train.epochs 9 "
    "--critic.stage1-epochs 1 --reference.epochs 1"
).split()
SMALL = [*MODEL, *PACE]


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the whole test run, of all its processes."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder, which `make` writes if no process of this test run has done it.

    `make` gets a folder that is not there yet, in one that is.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder.with_name(folder.name + ".done")
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # a failure left it
            make(folder)
            done.touch()
    return folder


def run(backend, folder: Path, name: str, *options: str, model=MODEL) -> Path:
    """Trains, and returns the run folder; a later option wins."""
    place = ["--output-dir", str(folder), "--run-name", name]
    assert backend.main([*model, *PACE, *place, *options]) == 0
    return folder / name


def copy_of(run_folder: Path, folder: Path) -> Path:
    """A copy of a run, to be harmed or gone on with, and of the signals beside it."""
    signals = run_folder.parent / "signals"
    if signals.exists():
        shutil.copytree(signals, folder / "signals")
    return Path(shutil.copytree(run_folder, folder / "copied"))


def cut(run_folder: Path, step: int) -> Path:
    """The run as it was when it had saved that step, and was killed."""
    for path in (run_folder / "checkpoints").iterdir():
        if not path.name.isdigit() or int(path.name) > step:
            shutil.rmtree(path)
    (run_folder / "summary.json").unlink(missing_ok=True)
    return run_folder


def go_on(backend, source, folder, name, steps):
    """A new run from an exported folder."""
    options = f"--resume {source} --output-dir {folder} --run-name {name} --device cpu"
    limit = ["--train.max-steps", str(steps)]
    assert backend.main([*options.split(), *limit]) == 0
    return folder / name


def rows(run_folder):
    """The rows of `metrics.jsonl` by step."""
    text = (run_folder / "metrics.jsonl").read_text()
    return {row["step"]: row for row in map(json.loads, text.splitlines())}
