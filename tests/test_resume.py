"""A run is one run: the same numbers again, and after anything that stops it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from shared.config_file import load_config
from shared.tracking import read_metrics
from wmtp_jax import checkpoint, critic, loop, train
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.state import TrainState, make_state

STEPS, SAVE_EVERY, EVAL_EVERY = 12, 3, 6
SMALL = (
    *("--model", "smoke", "--model.num-layers", "1", "--model.width", "16"),
    *("--heads", "2", "--data.max-length", "32", "--tracking", "jsonl"),
    *("--train.max-steps", str(STEPS), "--train.save-every", str(SAVE_EVERY)),
    *("--train.eval-every", str(EVAL_EVERY), "--train.keep-checkpoints", "99"),
)
TIMES = {"seconds", "tokens_per_s"}


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Compiled programs are kept on disk for this file: every run needs the same."""
    folder = str(tmp_path_factory.mktemp("compiled"))
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
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(runs) -> Path:
    """A run that nothing ever stopped."""
    return new_run(runs, "whole")


@pytest.fixture(scope="module")
def whole_critic(runs) -> Path:
    """The same of the algorithm with the most to remember."""
    return new_run(runs, "whole-critic", "--algo", "critic")


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of the whole run, to be harmed."""
    return Path(shutil.copytree(whole, tmp_path / "copied"))


def new_run(runs: Path, name: str, *argv: str) -> Path:
    folder = ("--output-dir", str(runs), "--run-name", name)
    assert train.main([*SMALL, *folder, *argv]) == 0
    return runs / name


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


# --- kill -9 ------------------------------------------------------------------------


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


def kill_when(condition: Callable[[], bool], *argv: str) -> None:
    """Starts a trainer and kills it while `condition` holds.

    It is first stopped, so that it cannot leave the moment that it is to die in.
    """
    with trainer(*argv) as process:
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


def has_row(run: Path, step: int) -> Callable[[], bool]:
    return lambda: (
        (run / "metrics.jsonl").exists()
        and (run / "metrics.jsonl").read_bytes().count(b"\n") > step
    )


def is_saving(run: Path) -> Callable[[], bool]:
    """Whether Orbax is at work on a checkpoint after the first."""

    def check() -> bool:
        names = [path.name for path in (run / "checkpoints").glob("*tmp*")]
        return any(not name.startswith("0.") for name in names)

    return check


def test_a_killed_run_ends_as_if_it_had_not_been(whole, runs):
    """Killed before the first checkpoint, at a random step, and inside a save."""
    run = runs / "killed"
    keep = ("--train.keep-checkpoints", "2")
    new = (*SMALL, *keep, "--output-dir", str(runs), "--run-name", run.name)
    kill_when((run / "inputs.json").exists, *new)
    assert saved_steps(run) == []
    step = random.Random(0).randint(2, STEPS // 2)
    kill_when(has_row(run, step), "--resume", str(run))
    kill_when(is_saving(run), "--resume", str(run))
    assert is_saving(run)()
    assert resume(run) == 0
    assert_same_end(run, whole)
    assert saved_steps(run) == [STEPS - SAVE_EVERY, STEPS]
    assert not is_saving(run)(), "the killed save was not cleared away"


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["baseline", "critic"])
def test_twenty_random_kills_change_nothing(algo, request, runs):
    """Kills at random times, from the first moment of the process to the last step."""
    whole = request.getfixturevalue("whole" if algo == "baseline" else "whole_critic")
    run = runs / f"tortured-{algo}"
    options = ("--output-dir", str(runs), "--run-name", run.name, "--algo", algo)
    argv: tuple[str, ...] = (*SMALL, *options)
    rng = random.Random(1)
    kills = 0
    while kills < 20:
        with trainer(*argv) as process:
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


# What runs when the signal comes: reading the metrics of a step, or an evaluation.
MOMENTS = {"step": (loop.Recorder, "wait", 5), "evaluation": (loop, "validate", 2)}


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGTERM, "step"), (signal.SIGINT, "evaluation")]
)
def test_a_signal_saves_the_current_step(
    number, moment, whole, tmp_path, monkeypatch, capsys
):
    before = signal.getsignal(number)
    owner, name, call = MOMENTS[moment]
    original = getattr(owner, name)
    calls = iter(range(1, 1000))

    def interrupted(*args):
        if next(calls) == call:
            signal.raise_signal(number)
        return original(*args)

    monkeypatch.setattr(owner, name, interrupted)
    # Saves are rare, so that only the signal can be the reason for one.
    run = tmp_path / "stopped"
    argv = ("--train.save-every", "20", "--output-dir", str(tmp_path))
    assert train.main([*SMALL, *argv, "--run-name", run.name]) == 130
    monkeypatch.undo()
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err == "stopped\n"
    stopped_at = rows_of(run)[-1]["step"]
    assert 0 < stopped_at < STEPS
    assert saved_steps(run) == [0, stopped_at]
    assert not (run / "summary.json").exists()
    assert resume(run) == 0
    assert_same_end(run, whole)


def test_a_second_trainer_is_refused_and_sigterm_ends_the_first(tmp_path, capsys):
    run = tmp_path / "busy"
    long = ("--train.max-steps", "0", "--train.epochs", "400")
    few = ("--train.keep-checkpoints", "2", "--train.save-every", "50")
    folder = ("--output-dir", str(tmp_path), "--run-name", run.name)
    with trainer(*SMALL, *long, *few, *folder) as process:
        wait_until(has_row(run, 1), process)
        capsys.readouterr()
        assert resume(run) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        assert "only one trainer" in line and str(run) in line
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
        assert process.stderr.read() == "stopped\n"
    assert saved_steps(run)[-1] == rows_of(run)[-1]["step"]


# --- what a resumed run may do ------------------------------------------------------


def test_resume_goes_on_from_a_named_checkpoint(copied, whole):
    """Also where the steps after it have been saved before."""
    assert resume(copied / "checkpoints" / str(SAVE_EVERY)) == 0
    assert_same_end(copied, whole)


def test_resume_goes_on_from_the_checkpoint_of_step_0(copied, whole):
    for step in saved_steps(copied)[1:]:
        shutil.rmtree(copied / "checkpoints" / str(step))
    assert resume(copied) == 0
    assert_same_end(copied, whole)


def test_a_resumed_critic_keeps_its_value_head(whole_critic, tmp_path, monkeypatch):
    run = Path(shutil.copytree(whole_critic, tmp_path / "copied"))
    shutil.copytree(whole_critic.parent / "signals", tmp_path / "signals")
    for step in saved_steps(run)[2:]:
        shutil.rmtree(run / "checkpoints" / str(step))
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


def test_a_resumed_run_must_keep_its_data(tmp_path, monkeypatch, capsys):
    rows = [{"prompt": f"{n} =", "completion": f" {n}"} for n in range(6)]
    lines = [json.dumps(row) + "\n" for row in rows]
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train", "validation"):
        (data / f"{name}.jsonl").write_text("".join(lines))

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "make_state", interrupted)  # data is read before that
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


# --- damage -------------------------------------------------------------------------


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
