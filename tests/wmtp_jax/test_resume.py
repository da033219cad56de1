"""A run is one run: the same numbers again, and what a resumed run may do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from shared.tracking.tracking import read_metrics
from tests import resuming
from tests.resuming import (
    EVAL_EVERY,
    SAVE_EVERY,
    SMALL,
    STEPS,
    TIMES,
    assert_same_end,
    contents,
    new_run,
    resume,
    rows_of,
    saved_steps,
)
from tests.trained import copy_of, cut
from wmtp_jax import critic, train, training

whole, copied = resuming.whole, resuming.copied
whole_critic = resuming.whole_critic


# --- the same run again -------------------------------------------------------------


def test_one_seed_gives_equal_metrics_and_another_does_not(whole, tmp_path):
    rarely = ("--train.save-every", "99")
    assert rows_of(new_run(tmp_path, "again", *rarely)) == rows_of(whole)
    other = rows_of(new_run(tmp_path, "other", *rarely, "--seed", "1"))
    assert [row["step"] for row in other] == [row["step"] for row in rows_of(whole)]
    losses = [row["loss"] for row in rows_of(whole)[1:]]
    differ = [row["loss"] != loss for row, loss in zip(other[1:], losses, strict=True)]
    assert all(differ)


def step_keys(heads: int) -> set[str]:
    """What a row of `metrics.jsonl` holds at every step."""
    per_head = {f"{name}_head_{k}" for name in ("nll", "rows") for k in range(heads)}
    weights = {f"weight_{name}" for name in ("mean", "min", "max", "entropy", "ess")}
    norms = {"grad_norm_trunk", "grad_norm_heads"}
    return {"step", "loss", "kept_fraction", "lr"} | per_head | weights | norms | TIMES


@pytest.mark.parametrize("algo", ["baseline", "critic"])
def test_rows_hold_what_is_promised_and_no_more(algo, request):
    run = request.getfixturevalue("whole" if algo == "baseline" else "whole_critic")
    eval_keys = {"eval_nll_head_0", "eval_nll_head_1"}
    expected = step_keys(heads=2)
    if algo == "critic":
        eval_keys |= {"eval_explained_variance"}
        expected |= {"value_loss"}
    first, *rows = read_metrics(run / "metrics.jsonl")
    assert first.keys() == {"step"} | eval_keys
    for row in rows:
        evaluates = row["step"] % EVAL_EVERY == 0
        assert row.keys() == (expected | eval_keys if evaluates else expected)
        assert all(np.isfinite(value) for value in row.values())


def test_the_summary_says_what_the_scores_rest_on(whole, whole_critic):
    plain = json.loads((whole / "summary.json").read_text())
    assert plain["reference"] is None and plain["reward"] is None
    summary = json.loads((whole_critic / "summary.json").read_text())
    assert "trained first" in summary["reference"]
    assert "`reference` split (40 documents)" in summary["reference"]
    assert "pseudo reward" in summary["reward"] and "ref_nll" in summary["reward"]
    log = (whole_critic / "train.log").read_text()
    assert f"reference: {summary['reference']}" in log
    assert f"reward: {summary['reward']}" in log
    assert plain["train_step_traces"] == summary["train_step_traces"] == 1


# --- what a resumed run may do ------------------------------------------------------


def test_resume_goes_on_from_a_named_checkpoint(copied, whole):
    """Also where the steps after it have been saved before."""
    assert resume(copied / "checkpoints" / str(SAVE_EVERY)) == 0
    assert_same_end(copied, whole)


@pytest.mark.slow
def test_resume_goes_on_from_the_checkpoint_of_step_0(copied, whole):
    for step in saved_steps(copied)[1:]:
        shutil.rmtree(copied / "checkpoints" / str(step))
    assert resume(copied) == 0
    assert_same_end(copied, whole)


def test_a_resumed_critic_keeps_its_value_head(whole_critic, tmp_path, monkeypatch):
    run = cut(copy_of(whole_critic, tmp_path), SAVE_EVERY)
    monkeypatch.setattr(critic, "train_value_head", None)  # stage 1 is not repeated
    assert resume(run) == 0
    assert_same_end(run, whole_critic)


def test_resume_of_a_finished_run_changes_nothing(copied):
    kept = {"metrics.jsonl", "config.yaml", "inputs.json"}
    before = {
        n: x for n, x in contents(copied).items() if n in kept or n[:5] == "check"
    }
    assert resume(copied) == 0
    after = contents(copied)
    assert {n: after.get(n) for n in before} == before


def test_resume_of_a_run_that_stopped_early_does_not_train_on(tmp_path):
    """It may have been killed after its last checkpoint, before its summary."""
    impatient = ("--train.patience", "1", "--train.min-delta", "100")
    run = new_run(tmp_path, "early", *impatient)
    before = (run / "metrics.jsonl").read_bytes()
    assert rows_of(run)[-1]["step"] == EVAL_EVERY
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stopped_early"]
    assert resume(run) == 0
    assert (run / "metrics.jsonl").read_bytes() == before
    assert json.loads((run / "summary.json").read_text())["stopped_early"]


@pytest.mark.slow
def test_a_resumed_run_may_be_longer(whole, tmp_path):
    run = new_run(tmp_path, "short", "--train.max-steps", str(EVAL_EVERY))
    assert rows_of(run)[-1]["step"] == EVAL_EVERY
    assert resume(run, "--train.max-steps", str(STEPS)) == 0
    assert_same_end(run, whole)


CHANGES = {
    "seed": ("1", "seed (was 0, got 1)"),
    "algo": ("critic", "algo (was 'baseline', got 'critic')"),
    "model": ("tiny", "model.name (was 'smoke', got 'tiny')"),
    "model.width": ("32", "model.width (was 16, got 32)"),
    "heads": ("3", "heads.count (was 2, got 3)"),
    "data": ("elsewhere", "data.source (was 'minis', got 'elsewhere')"),
    "data.batch-size": ("8", "data.batch_size (was 4, got 8)"),
    "optimizer.lr": ("1", "optimizer.lr (was 0.002, got 1.0)"),
}


def refused(run: Path, capsys, *argv: str) -> str:
    """The one line of a resume that is refused and leaves the run as it was."""
    before = contents(run)
    capsys.readouterr()
    assert resume(run, *argv) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1
    assert contents(run) == before
    return line


@pytest.mark.parametrize("field", CHANGES)
def test_a_resumed_run_must_keep_its_config(field, whole, capsys):
    value, says = CHANGES[field]
    line = refused(whole, capsys, f"--{field}", value)
    assert says in line and "must keep its config" in line
    both = refused(whole, capsys, f"--{field}", value, "--data.layout", "padded")
    assert says in both and "data.layout" in both


def test_a_resumed_run_keeps_its_name(whole, copied, capsys):
    line = refused(whole, capsys, "--run-name", "other")
    assert "run_name must be that of the run that goes on" in line
    assert resume(copied, "--run-name", copied.name) == 0


def test_a_resumed_run_must_keep_its_data(tmp_path, monkeypatch, capsys):
    rows = [{"prompt": f"{n} =", "completion": f" {n}"} for n in range(6)]
    lines = [json.dumps(row) + "\n" for row in rows]
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation"):
        (data / f"{name}.jsonl").write_text("".join(lines))

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "make_state", interrupted)  # data is read before that
    argv = ("--data", str(data), "--output-dir", str(tmp_path), "--run-name", "run")
    assert train.main([*SMALL, *argv]) == 130
    run = tmp_path / "run"
    assert resume(run) == 130
    (data / "train.jsonl").write_text("".join(lines[1:]))
    line = refused(run, capsys)
    assert line.rstrip().endswith("got another train") and "inputs it started" in line
    (data / "validation.jsonl").write_text("".join(lines[:5]))
    assert refused(run, capsys).rstrip().endswith("got another train, validation")
    (data / "train.jsonl").write_text("".join(lines))
    (data / "validation.jsonl").write_text("".join(lines))
    assert resume(run) == 130
