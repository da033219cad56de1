"""A resume that is refused changes nothing, and is refused before much is read."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from shared.config.fields import Config
from shared.config.layers import load_config
from shared.data import documents
from shared.run import open_run
from shared.state import run_folder
from tests import trained
from tests.refused import everything
from tests.trained import STEPS
from wmtp_jax import train as jax_train
from wmtp_torch_mps import train as torch_train

TRAINERS = {"jax": jax_train, "torch": torch_train}
MORE = ["--train.max-steps", "99"]  # may change, so that only the rest is refused


@pytest.fixture(params=TRAINERS)
def trainer(request):
    return TRAINERS[request.param]


@pytest.fixture
def finished(trainer, whole_run, tmp_path):
    return trained.copy_of(whole_run(trainer, "baseline"), tmp_path)


def contents(run):
    """All but what says that somebody was here."""
    found = everything(run)
    return {n: x for n, x in found.items() if n not in (".lock", "train.log")}


def refused(trainer, capsys, run, *argv):
    before = contents(run if run.parent.name != "checkpoints" else run.parent.parent)
    capsys.readouterr()
    assert trainer.main(["--resume", str(run), *MORE, *map(str, argv)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    run = run if run.parent.name != "checkpoints" else run.parent.parent
    assert contents(run) == before
    return line


def test_of_a_run_that_another_process_holds(trainer, finished, capsys):
    held = run_folder.lock(finished)
    try:
        assert "only one trainer" in refused(trainer, capsys, finished)
    finally:
        held.release()


def test_for_another_config(trainer, finished, capsys):
    line = refused(trainer, capsys, finished, "--optimizer.lr", "0.5")
    assert "must keep its config" in line and "optimizer.lr" in line


def test_for_other_inputs(trainer, finished, capsys):
    file = finished / "inputs.json"
    file.write_text(file.read_text().replace('"train": "', '"train": "0'))
    assert "got another train" in refused(trainer, capsys, finished)


def test_for_a_missing_step_before_any_data_is_read(
    trainer, finished, capsys, monkeypatch
):
    monkeypatch.setattr(documents, "load_examples", None)
    monkeypatch.setattr(open_run, "read_inputs", None)
    for dry in ((), ("--dry-run",)):
        step = finished / "checkpoints" / "7"
        line = refused(trainer, capsys, step, *dry)
        assert "there must be a checkpoint of step 7" in line


def test_for_checkpoints_that_are_all_damaged(trainer, finished, capsys):
    for checkpoint in (finished / "checkpoints").iterdir():
        for file in checkpoint.rglob("*"):
            if file.is_file():
                file.write_bytes(b"damaged")
    line = refused(trainer, capsys, finished)
    assert "no checkpoint in" in line and "damaged ones" in line
    log = (finished / "train.log").read_text()
    told = [x for x in log.splitlines() if "cannot be read" in x]
    assert told and all(len(x) < 250 for x in told)


def test_what_may_change_is_kept_once_the_run_goes_on(trainer, finished):
    argv = ["--resume", str(finished), "--train.max-steps", str(STEPS + 1)]
    assert trainer.main([*argv, "--train.keep-checkpoints", "2"]) == 0
    saved = load_config(finished / "config.yaml").train
    assert (saved.max_steps, saved.keep_checkpoints) == (STEPS + 1, 2)


# --- a run that was made of an exported folder ---------------------------------------

KILLED = """
import os, sys
from {backend} import train, training
def killed(*arguments):
    os.kill(os.getpid(), 9)
training.adopt = killed
train.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def exported(whole_run):
    """Any checkpoint of the torch trainer is one."""
    return whole_run(torch_train, "critic") / "checkpoints" / "6"


def kill_in_adoption(trainer, exported, folder):
    """The run folder of a trainer that died before its first checkpoint."""
    code = KILLED.format(backend=trainer.__name__.partition(".")[0])
    argv = ["--resume", str(exported), "--output-dir", str(folder), "--run-name", "a"]
    done = subprocess.run([sys.executable, "-c", code, *argv, "--device", "cpu"])
    assert done.returncode == -signal.SIGKILL
    return folder / "a"


def adoption_without_checkpoint(trainer, exported, folder):
    """What is left of the same, without a process of its own."""
    backend = trainer.__name__.partition(".")[0]
    overrides = {"run_name": "a", "machine.device": "cpu"}
    here = replace(Config(), output_dir=str(folder))
    cfg = open_run.config_in_force(here, str(exported), overrides, backend)
    return open_run._adopt(cfg, exported, backend).path


LEFT = {
    "killed": pytest.param(kill_in_adoption, marks=pytest.mark.slow),
    "left": adoption_without_checkpoint,
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_a_killed_adoption_is_made_again(left, trainer, exported, tmp_path, capsys):
    """It once started from scratch, without a word, at step 0."""
    # In a run of its own trainer's it would be a checkpoint, and no export.
    source = tmp_path / "export"
    shutil.copytree(exported, source)
    run = left(trainer, source, tmp_path / "runs")
    assert not (run / "checkpoints").exists()
    os.rename(source, tmp_path / "moved")
    line = refused(trainer, capsys, run)
    assert "must have the folder that it goes on from" in line
    os.rename(tmp_path / "moved", source)
    capsys.readouterr()
    assert trainer.main(["--resume", str(run), "--train.max-steps", "8"]) == 0
    assert "going on from the checkpoint of step 6" in capsys.readouterr().out
    assert min(trained.rows(run)) == 7


def test_what_a_killed_save_has_left_is_cleared_away(trainer, finished):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead, live = f".6.{process.pid}.tmp", f".3.{os.getppid()}.tmp"
    for name in (dead, live):
        (finished / "checkpoints" / name).mkdir()
    (finished / f"config.yaml.{process.pid}.tmp").touch()
    assert trainer.main(["--resume", str(finished)]) == 0
    assert not list(finished.glob(f"**/*{process.pid}.tmp"))
    assert (finished / "checkpoints" / live).is_dir()
