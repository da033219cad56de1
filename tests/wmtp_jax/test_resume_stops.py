"""A run that was killed or told to stop ends as if it had not been."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import resuming
from tests.resuming import (
    SAVE_EVERY,
    SMALL,
    STEPS,
    assert_same_end,
    has_row,
    resume,
    rows_of,
    saved_steps,
    trainer,
    wait_until,
)

programs = resuming.programs
whole, whole_critic = resuming.whole, resuming.whole_critic


# --- kill -9 ------------------------------------------------------------------------


def kill_when(condition: Callable[[], bool], programs: Path, *argv: str) -> None:
    """Starts a trainer and kills it while `condition` holds.

    It is first stopped, so that it cannot leave the moment that it is to die in.
    """
    with trainer(programs, *argv) as process:
        while True:
            wait_until(condition, process)
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.01)
            if condition():
                break
            os.kill(process.pid, signal.SIGCONT)
        assert process.poll() is None
        process.kill()
        assert process.wait() == -signal.SIGKILL


def is_saving(run: Path) -> Callable[[], bool]:
    """Whether Orbax is at work on a checkpoint after the first."""

    def check() -> bool:
        names = [path.name for path in (run / "checkpoints").glob("*tmp*")]
        return any(not name.startswith("0.") for name in names)

    return check


def test_a_killed_run_ends_as_if_it_had_not_been(whole, programs, tmp_path):
    """Killed before the first checkpoint, at a random step, and inside a save."""
    run = tmp_path / "killed"
    keep = ("--train.keep-checkpoints", "2")
    new = (*SMALL, *keep, "--output-dir", str(tmp_path), "--run-name", run.name)
    kill_when((run / "inputs.json").exists, programs, *new)
    assert saved_steps(run) == []
    step = random.Random(0).randint(2, STEPS // 2)
    kill_when(has_row(run, step), programs, "--resume", str(run))
    kill_when(is_saving(run), programs, "--resume", str(run))
    assert is_saving(run)()
    assert resume(run) == 0
    assert_same_end(run, whole)
    assert saved_steps(run) == [STEPS - SAVE_EVERY, STEPS]
    assert not is_saving(run)(), "the killed save was not cleared away"


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["baseline", "critic"])
def test_twenty_random_kills_change_nothing(algo, request, programs, tmp_path):
    """Kills at random times, from the first moment of the process to the last step."""
    whole = request.getfixturevalue("whole" if algo == "baseline" else "whole_critic")
    run = tmp_path / "tortured"
    if (whole.parent / "signals").exists():
        shutil.copytree(whole.parent / "signals", tmp_path / "signals")
    options = ("--output-dir", str(tmp_path), "--run-name", run.name, "--algo", algo)
    argv: tuple[str, ...] = (*SMALL, *options)
    rng = random.Random(1)
    kills = 0
    while kills < 20:
        with trainer(programs, *argv) as process:
            started = (run / "config.yaml").exists
            wait_until(started, process)
            argv = ("--resume", str(run))
            # Half of them at any moment, compilation included; the others at a step.
            step = rng.randint(1, STEPS - 1)
            if rng.random() < 0.5:
                time.sleep(rng.uniform(0, 6))
            elif not has_row(run, step)():
                wait_until(has_row(run, step), process)
            process.kill()
            process.wait()
        kills += 1
        if saved_steps(run)[-1:] == [STEPS]:  # it was too quick: go back to the middle
            for late in (s for s in saved_steps(run) if s > STEPS // 2):
                shutil.rmtree(run / "checkpoints" / str(late))
    assert resume(run) == 0
    assert_same_end(run, whole)


# --- signals ------------------------------------------------------------------------


def test_a_second_trainer_is_refused_and_sigterm_ends_the_first(
    programs, tmp_path, capsys
):
    run = tmp_path / "busy"
    long = ("--train.max-steps", "0", "--train.epochs", "400")
    few = ("--train.keep-checkpoints", "2", "--train.save-every", "50")
    folder = ("--output-dir", str(tmp_path), "--run-name", run.name)
    with trainer(programs, *SMALL, *long, *few, *folder) as process:
        wait_until(has_row(run, 1), process)
        capsys.readouterr()
        assert resume(run) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        assert "only one trainer" in line and str(run) in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert process.stderr.read() == "stopped\n"
    assert saved_steps(run)[-1] == rows_of(run)[-1]["step"]
