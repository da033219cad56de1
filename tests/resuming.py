"""Short runs that are stopped, harmed and gone on with, for the tests of resuming.

The runs that nothing ever stopped are made once per process; nobody may change them.
A test file takes the fixtures it needs as `whole = resuming.whole`.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from shared.config.layers import load_config
from shared.tracking.tracking import read_metrics
from wmtp_jax import checkpoint, train
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.state import TrainState, make_state

STEPS, SAVE_EVERY, EVAL_EVERY = 12, 3, 6
SMALL = (
    *("--model", "smoke", "--model.num-layers", "1", "--model.width", "16"),
    *("--heads", "2", "--data.max-length", "32", "--tracking", "jsonl"),
    *("--train.max-steps", str(STEPS), "--train.save-every", str(SAVE_EVERY)),
    *("--train.eval-every", str(EVAL_EVERY), "--train.keep-checkpoints", "99"),
)
# What a clock decides.
TIMES = {"seconds", "tokens_per_s", "tflops_per_s"}


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Compiled programs are kept on disk for these files: every run needs the same."""
    folder = str(tmp_path_factory.getbasetemp() / "compiled")
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(names, (folder, 0.0), strict=True):
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()  # it looks for its folder only once
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "runs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def whole(runs) -> Path:
    """A run that nothing ever stopped."""
    return run_once(runs, "whole")


@pytest.fixture(scope="module")
def whole_critic(runs) -> Path:
    """The same of the algorithm with the most to remember."""
    return run_once(runs, "whole-critic", "--algo", "critic")


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of the whole run, to be harmed."""
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def new_run(runs: Path, name: str, *argv: str) -> Path:
    folder = ("--output-dir", str(runs), "--run-name", name)
    assert train.main([*SMALL, *folder, *argv]) == 0
    return runs / name


run_once = cache(new_run)


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
    manager = checkpoint.open_manager(run / "checkpoints", keep=None)
    found = checkpoint.restore(manager, like, STEPS)
    manager.close()
    assert found is not None
    _, state, position = found
    leaves = jax.tree.leaves((state.params, state.opt_state, state.step))
    leaves.append(jax.random.key_data(state.key))
    return [np.asarray(leaf).tobytes() for leaf in leaves], position


def assert_same_end(run: Path, other: Path) -> None:
    """Equal metrics, no step twice, and the same bits in the last checkpoint."""
    rows = rows_of(run)
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert rows == rows_of(other)
    cfg = load_config(other / "config.yaml")
    like = make_state(cfg, make_optimizer(cfg, STEPS))
    assert last_checkpoint(run, like) == last_checkpoint(other, like)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@contextmanager
def trainer(*argv: str):
    """A trainer in a process of its own, which does not outlive the test."""
    command = [sys.executable, "-m", "wmtp_jax.train", *argv]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes)
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
