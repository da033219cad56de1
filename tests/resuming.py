"""JAX runs that are stopped, harmed and gone on with, for the tests of resuming.

The runs that nothing ever stopped are those of `tests/trained.py`; nobody may change
them. A test file takes the fixtures it needs as `whole = resuming.whole`.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

from shared.config.layers import load_config
from shared.tracking.tracking import read_metrics
from tests import compiled, trained
from tests.trained import EVAL_EVERY, SAVE_EVERY, SMALL, STEPS
from wmtp_jax import checkpoint, train
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.state import TrainState, make_state

__all__ = ["EVAL_EVERY", "SAVE_EVERY", "SMALL", "STEPS"]
# What a clock decides.
TIMES = {"seconds", "tokens_per_s", "tflops_per_s"}


@pytest.fixture(scope="module")
def whole(whole_run) -> Path:
    """A run that nothing ever stopped."""
    return whole_run(train, "baseline")


@pytest.fixture(scope="module")
def whole_critic(whole_run) -> Path:
    """The same of the algorithm with the most to remember."""
    return whole_run(train, "critic")


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of the whole run, to be harmed."""
    return trained.copy_of(whole, tmp_path)


def new_run(runs: Path, name: str, *argv: str) -> Path:
    return trained.run(train, runs, name, *argv)


def resume(run: Path, *argv: str) -> int:
    return train.main(["--resume", str(run), *argv])


def rows_of(run: Path) -> list[dict]:
    """The rows of `metrics.jsonl` without what a clock decides."""
    rows = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def saved_steps(run: Path) -> list[int]:
    names = [path.name for path in (run / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdigit())


def last_checkpoint(run: Path, like: TrainState) -> tuple[list[bytes], dict]:
    """Every array of the run's last checkpoint as bytes, and what goes with them."""
    found = checkpoint.restore(run, like, STEPS)
    assert found is not None
    _, state, position = found
    leaves = jax.tree.leaves((state.params, state.opt_state, state.step))
    leaves.append(jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in leaves], position


def assert_same_end(run: Path, other: Path) -> None:
    """Equal metrics and weights kept, no step twice, and the same last checkpoint."""
    rows = rows_of(run)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert rows == rows_of(other)
    kept = [(x / "inspected" / "training.jsonl").read_text() for x in (run, other)]
    assert kept[0] == kept[1] and len(kept[0].splitlines()) == 1 + STEPS // EVAL_EVERY
    cfg = load_config(other / "config.yaml")
    like = make_state(cfg, make_optimizer(cfg, STEPS))
    assert last_checkpoint(run, like) == last_checkpoint(other, like)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def programs(tmp_path) -> Path:
    """The kept programs for trainers that are killed."""
    return compiled.own_copy(tmp_path / "programs")


@contextmanager
def trainer(programs: Path, *argv: str):
    """A trainer in a process of its own, which does not outlive the test."""
    command = [sys.executable, "-m", "wmtp_jax.train", *argv]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    process = subprocess.Popen(command, **pipes, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 240
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"it ended first: {process.stderr.read()}"
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.001)


def has_row(run: Path, step: int) -> Callable[[], bool]:
    return lambda: (
        (run / "metrics.jsonl").exists()
        and (run / "metrics.jsonl").read_bytes().count(b"\n") > step
    )
