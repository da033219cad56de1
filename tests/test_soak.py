"""Long runs: what a process holds stays flat, and many may start at once."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from shared.run.loop import Loop
from tests import compiled
from tests.tracked import client
from tests.trained import MODEL
from wmtp_jax import train as jax_train
from wmtp_torch_mps import train as torch_train

SOAK = (
    "--data.max-length 32 --tracking jsonl --device cpu --train.epochs 9999 "
    "--train.keep-checkpoints 2 --train.no-export"
).split()
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def held() -> dict[str, int]:
    """Open files, threads and resident memory (MiB) of this process."""
    files = len(os.listdir("/proc/self/fd"))
    return {
        "files": files,
        "threads": threading.active_count(),
        "memory": compiled.resident() // 2**20,
    }


def sampled(trainer, folder: Path, steps: int, every: int, monkeypatch) -> list[dict]:
    """What is held after every so many steps of a run; it evaluates and saves often."""
    found, log = [], Loop.log

    def watched(self, number, *arguments):
        log(self, number, *arguments)
        if number % every == 0:
            found.append(held())

    monkeypatch.setattr(Loop, "log", watched)
    often = f"--train.max-steps {steps} --train.eval-every {every // 2}"
    argv = [*MODEL, *SOAK, *often.split(), "--train.save-every", str(every // 2)]
    assert trainer.main([*argv, "--output-dir", str(folder), "--run-name", "a"]) == 0
    return found


@LINUX
@pytest.mark.parametrize("trainer", [jax_train, torch_train], ids=["jax", "torch"])
def test_files_and_threads_stay_the_same(trainer, tmp_path, monkeypatch):
    first, *others = sampled(trainer, tmp_path, 30, 10, monkeypatch)
    for later in others:
        assert later["files"] == first["files"]
        assert later["threads"] == first["threads"]


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("trainer", [jax_train, torch_train], ids=["jax", "torch"])
def test_two_thousand_steps_stay_flat(trainer, tmp_path, monkeypatch):
    samples = sampled(trainer, tmp_path, 2000, 100, monkeypatch)
    print(json.dumps(samples))
    settled, last = samples[4], samples[-1]
    assert all(x["files"] == settled["files"] for x in samples[4:])
    assert all(x["threads"] == settled["threads"] for x in samples[4:])
    # Of 15 more evaluations and saves each; a leak of one batch a step were 100.
    assert last["memory"] - settled["memory"] < 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own
def test_eight_trainers_start_at_once_on_a_new_store(tmp_path):
    """Each finds no store, and all of them end up in one."""
    few = "--data.max-length 32 --device cpu --train.max-steps 3 --train.no-export"
    argv = [*MODEL, *few.split(), "--tracking", "mlflow", "--output-dir", str(tmp_path)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "wmtp_torch_mps.train", *argv, "--run-name", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in "abcdefgh"
    ]
    for process in processes:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0 and "warning: MLflow" not in output, output
    store = client(tmp_path)
    (experiment,) = store.search_experiments(filter_string="name = 'wmtp'")
    runs = store.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == list("abcdefgh")
    assert {run.info.status for run in runs} == {"FINISHED"}
