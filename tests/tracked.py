"""A real MLflow store with two killed runs, and how to read one.

Making a store takes seconds: two processes that start at once and are then killed make
one per process of pytest, and the tests work on copies of it. A test file takes the
fixtures as `folder = tracked.folder`.
"""

import json
import logging
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from shared.config.fields import Config
from tests import trained

ROOT = Path(__file__).parents[1]

# Waits for its twin, so that both find no store; dies with 3 rows still in the buffer.
KILLED_RUN = """
import os, signal, sys, time
from pathlib import Path
import mlflow  # takes seconds: not part of the race
from shared.config.fields import Config
from shared.tracking.tracking import open_trackers
folder, name = Path(sys.argv[1]), sys.argv[2]
run = folder / name
run.mkdir()
while len([p for p in folder.iterdir() if p.is_dir()]) < 2:
    time.sleep(0.01)
cfg = Config(output_dir=str(folder), run_name=name, tags="mini, lr=1e-3,")
tracker = open_trackers(cfg, run, resume_step=None)
for step in range(23):
    tracker.log({"loss": 1 / (step + 1), "rows": step}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_two(folder: Path) -> None:
    """Makes what the fixture `killed` gives."""
    folder.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED_RUN, str(folder), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for name in "ab"
    ]
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert (output, process.returncode) == ("", -signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A folder with a store and the runs `a` and `b`, both killed after step 22."""
    # SQLAlchemy finds fault with MLflow's tables, which pytest would make an error, and
    # the tables stay broken for the rest of the process.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    return trained.made_once(
        trained.shared_folder(tmp_path_factory) / "killed", kill_two
    )


@pytest.fixture
def folder(killed, tmp_path):
    """A copy of that folder, for one test alone."""
    return Path(shutil.copytree(killed, tmp_path / "runs"))


def config(folder: Path, **changes) -> Config:
    return replace(Config(output_dir=str(folder)), **changes)


def client(folder: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def run_id(run: Path) -> str:
    return json.loads((run / "mlflow_run.json").read_text())["run_id"]


def history(folder: Path, run: Path, name: str) -> list[tuple[int, float]]:
    points = client(folder).get_metric_history(run_id(run), name)
    return sorted((point.step, point.value) for point in points)


def losses(steps) -> list[tuple[int, float]]:
    return [(step, 1 / (step + 1)) for step in steps]


def log_losses(tracker, steps) -> None:
    for step, loss in losses(steps):
        tracker.log({"loss": loss, "rows": step}, step)


def the_warning(caplog) -> str:
    """The one line that was logged, by anyone, at warning level or above."""
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    return lines[0]
