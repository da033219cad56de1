"""A resumed run passes over damaged checkpoints, and says when none is left."""

import shutil
from pathlib import Path

import pytest

from tests import resuming, trained
from tests.cases import shorter
from tests.resuming import (
    SAVE_EVERY,
    STEPS,
    assert_same_end,
    resume,
    saved_steps,
)

whole, copied = resuming.whole, resuming.copied
whole_critic = resuming.whole_critic


def flip_a_bit(folder: Path) -> None:
    """Damages the largest file of a checkpoint's arrays, in its middle."""
    files = [path for path in (folder / "state").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_damaged_newest_checkpoint_is_passed_over(copied, whole, capsys):
    flip_a_bit(copied / "checkpoints" / str(STEPS))
    capsys.readouterr()
    assert resume(copied) == 0
    out, err = capsys.readouterr()
    warning = f"warning: checkpoint {STEPS} cannot be read: "
    assert sum(line.startswith(warning) for line in out.splitlines()) == 1
    assert f"going on from the checkpoint of step {STEPS - SAVE_EVERY}" in out
    assert err == ""
    assert_same_end(copied, whole)  # which reads the last checkpoint: it is whole again


@pytest.mark.parametrize("lost", shorter(["_METADATA", "."], ["."]))
def test_what_is_asked_of_a_critics_checkpoint_may_be_gone(
    whole_critic, lost, tmp_path, capsys
):
    run = trained.copy_of(whole_critic, tmp_path)
    harmed = run / "checkpoints" / str(STEPS) / "state" / lost
    shutil.rmtree(harmed) if harmed.is_dir() else harmed.unlink()
    assert resume(run) == 0
    out = capsys.readouterr().out
    assert f"warning: checkpoint {STEPS} cannot be read: " in out
    assert f"going on from the checkpoint of step {STEPS - SAVE_EVERY}" in out


def test_a_run_whose_every_checkpoint_is_damaged_is_an_error(copied, capsys):
    for step in saved_steps(copied)[:-1]:
        shutil.rmtree(copied / "checkpoints" / str(step))
    flip_a_bit(copied / "checkpoints" / str(STEPS))
    metrics = (copied / "metrics.jsonl").read_bytes()
    for named in (copied, copied / "checkpoints" / str(STEPS)):
        capsys.readouterr()
        assert resume(named) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: no checkpoint in ") and line.count("\n") == 1
        assert f"got damaged ones: {STEPS}" in line
    assert (copied / "metrics.jsonl").read_bytes() == metrics


def test_a_checkpoint_that_is_not_there_is_an_error(copied, capsys):
    assert resume(copied / "checkpoints" / "7") == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert "checkpoint of step 7" in line and "0, 3, 6" in line
