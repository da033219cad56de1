"""Updates that are skipped, roll-backs and spikes: the same in both trainers."""

import json
import math
import shutil
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from shared.config.fields import TrackingConfig
from shared.data.batches import TrainBatches
from shared.run import inputs
from shared.run.loop import Loop
from shared.run.peers import ALONE
from shared.run.setbacks import MOST_IDS, named_ids
from shared.run.spikes import FACTOR, LEAST, WINDOW, spike_over
from shared.state.checkpoints import Progressed, steps_in
from shared.tracking.tracking import read_metrics
from tests.cases import shorter, shorter_rows
from tests.resuming import TIMES
from tests.small import micro_batches, small_batch, small_config
from tests.trained import STEPS, copy_of, cut, run
from wmtp_jax import train as jax_train
from wmtp_torch_mps import train as torch_train

pytestmark = pytest.mark.unaudited  # the steps that are made here are so elsewhere
BACKENDS = {"jax": jax_train, "torch": torch_train}
# Steps of the data whose signals of a reference are infinite.
ONCE_AND_IN_A_ROW = {1, 4, 5, 6, 7}


class Poisoned(TrainBatches):
    """Batches of which some, wherever a run comes by them, are not finite."""

    steps: frozenset[int] = frozenset()

    def __next__(self):
        number = self._epoch * self.steps_per_epoch(0) + self._step
        batch = super().__next__()
        if number not in self.steps:
            return batch
        bad = {name: x + np.float32(math.inf) for name, x in batch.signals.items()}
        return replace(batch, signals=bad)


@pytest.fixture
def poison(monkeypatch):
    """Makes steps of the training data bad, counted from 0 over all epochs."""

    def of(steps):
        kind = type("Poisoned", (Poisoned,), {"steps": frozenset(steps)})
        monkeypatch.setattr(inputs, "TrainBatches", kind)

    return of


@pytest.fixture(scope="module")
def place(tmp_path_factory, whole_run):
    """One folder for all runs, with what the references have said in other runs."""
    made = tmp_path_factory.mktemp("setbacks")
    for backend in BACKENDS.values():
        signals = whole_run(backend, "rho1-weighted").parent / "signals"
        shutil.copytree(signals, made / "signals", dirs_exist_ok=True)
    return made


def rows_of(path):
    rows = read_metrics(path / "metrics.jsonl")
    return [{k: x for k, x in row.items() if k not in TIMES} for row in rows]


def trained_on(backend, place, name, *options):
    """A run of rho1, whose reference is not trained on what is poisoned."""
    return run(backend, place, name, "--algo", "rho1-weighted", *options)


@pytest.fixture(scope="module", params=BACKENDS)
def setback(request, place):
    """`(backend, run)`: one update skipped, later four in a row, and a roll-back."""
    with pytest.MonkeyPatch.context() as patch:
        kind = type("Poisoned", (Poisoned,), {"steps": frozenset(ONCE_AND_IN_A_ROW)})
        patch.setattr(inputs, "TrainBatches", kind)
        backend = BACKENDS[request.param]
        yield backend, trained_on(backend, place, request.param)


def test_a_run_skips_goes_back_and_ends(setback):
    """What is skipped is told with its examples; the rows are those of one run."""
    _, path = setback
    rows = rows_of(path)
    assert [row["step"] for row in rows] == [*range(STEPS + 1)]
    skipped = [row.get("skipped_updates", 0) for row in rows]
    assert skipped == [0, 0, *[1] * (STEPS - 1)]
    assert all(math.isfinite(x) for row in rows for x in row.values())
    summary = json.loads((path / "summary.json").read_text())
    assert summary["skipped_updates"] == summary["roll_backs"] == 1
    (passed,) = summary["passed_over"]
    assert (passed["back_to"], passed["at_step"]) == (3, 8)
    assert (passed["from_step"], passed["to_step"]) == (3, 8)
    told = (path / "train.log").read_text()
    assert told.count("no update is made: ") == 5
    assert " must be finite, got nan at step 2; examples train/" in told
    assert "4 updates in a row were skipped: back to step 3" in told
    assert steps_in(path / "checkpoints") == [0, 3, 6, 9, STEPS]


def test_both_trainers_skip_the_same_steps(place):
    """This test reads what the others have left."""
    logs = [place / name / "train.log" for name in BACKENDS]
    if not all(log.exists() for log in logs):
        pytest.skip("one of the runs was left out")
    told = [
        [
            (line.partition(" at step ")[2][:1], line.partition("; examples ")[2])
            for line in log.read_text().splitlines()
            if "no update is made" in line
        ]
        for log in logs
    ]
    assert told[0] == told[1] and len(told[0]) == 5


@pytest.mark.parametrize(
    "setback, killed_after",
    shorter_rows(product(BACKENDS, (3, 6)), [("torch", 3)]),
    indirect=["setback"],
)
def test_a_run_that_is_killed_goes_back_in_the_same_way(
    setback, killed_after, tmp_path, poison
):
    """Before its roll-back, which then comes again, or after it."""
    backend, whole = setback
    poison(ONCE_AND_IN_A_ROW)
    killed = cut(copy_of(whole, tmp_path), killed_after)
    assert backend.main(["--resume", str(killed)]) == 0
    assert rows_of(killed) == rows_of(whole)
    ends = [json.loads((x / "summary.json").read_text()) for x in (killed, whole)]
    assert ends[0]["passed_over"] == ends[1]["passed_over"]
    for file in ("model.safetensors", "mtp_heads.safetensors"):
        ours, right = (load_file(x / "model" / file) for x in (killed, whole))
        assert all(np.array_equal(ours[name], right[name]) for name in right)


@pytest.mark.parametrize("name", shorter(BACKENDS, ["torch"]))
def test_a_second_time_ends_the_run(name, place, poison, capsys):
    poison({1, *range(4, 12)})
    with pytest.raises(AssertionError):
        trained_on(BACKENDS[name], place, f"{name}-twice")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 4 updates in a row were skipped, more than ")
    assert "after 1 of train.max_roll_backs = 1 roll-backs" in line
    assert "got nan at step 7; examples train/" in line
    assert line.endswith("(the checkpoint of step 3 is kept)")
    path = place / f"{name}-twice"
    assert steps_in(path / "checkpoints") == [0, 3]
    assert not (path / "summary.json").exists()
    more = ["--train.max-roll-backs", "2"]
    assert BACKENDS[name].main(["--resume", str(path), *more]) == 0
    summary = json.loads((path / "summary.json").read_text())
    assert summary["roll_backs"] == 2 and len(summary["passed_over"]) == 2
    assert [row["step"] for row in rows_of(path)] == [*range(STEPS + 1)]


# The loop, told what steps have measured.


class Numbered:
    """Training data of one batch, whose position is the number of the step."""

    def __init__(self):
        self.step, self.batch = 0, micro_batches(small_batch(), 1).changed(np.asarray)

    def state(self):
        return {"epoch": 0, "step": self.step}

    def restore(self, state):
        self.step = state["step"]

    def ids_at(self, state):
        return [f"train/{state['step']}"]

    def __next__(self):
        self.step += 1
        return self.batch


def looped(tmp_path, norms, *, asynchronous, saved=(0,)):
    """What a loop has seen: `(step, position)` of the data by step, its progress."""
    cfg = small_config(heads=1, tracking=TrackingConfig(to="none"))
    known = {"peers": ALONE, "watchdog": SimpleNamespace(now=lambda *_: None)}
    run_ = SimpleNamespace(cfg=cfg, path=tmp_path, resumed=False, started=0.0, **known)
    for step in saved:
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    done, seen, train = Progressed({}, first_eval={}), [], Numbered()
    positions = {0: {"data": train.state(), "first_eval": {}}}
    most = 10
    loop = Loop(
        run_, done, 0, most, train, [], asynchronous=asynchronous, tensors=["a.b"]
    )
    with loop:
        for number, batches in loop:
            seen.append((number, train.step))
            norm = norms.get(train.step, 1.0)
            bad = 0 if math.isnan(norm) else -1
            metrics = {"loss": 1.0, "nll_head_0": 1.0, "rows_head_0": 5.0}
            metrics |= {"grad_norm_trunk": norm, "grad_norm_heads": 0.0}
            loop.log(number, metrics | {"not_finite": bad}, batches)
            if loop.goes_back_to is not None:
                loop.gone_back(loop.goes_back_to, positions[loop.goes_back_to])
    return seen, done


def test_a_step_read_late_goes_back_to_the_same_place(tmp_path):
    """On an accelerator the step after the last bad one is under way already."""
    bad = {n: math.nan for n in (3, 4, 5, 6)}
    found = [
        looped(tmp_path / str(late), bad, asynchronous=late) for late in (False, True)
    ]
    behind = [(number, number + 6) for number in range(1, 11)]
    assert found[0][0] == [*((n, n) for n in range(1, 7)), *behind]
    assert found[1][0] == [*((n, n) for n in range(1, 8)), *behind]
    assert found[0][1] == found[1][1]


def test_a_reading_between_ends_the_row(tmp_path):
    bad = {n: math.nan for n in (2, 3, 4, 6, 7, 8)}
    seen, done = looped(tmp_path, bad, asynchronous=True)
    assert [number for number, _ in seen] == [*range(1, 11)]
    assert (done.skipped_updates, done.skipped_in_a_row, done.roll_backs) == (6, 0, 0)


def test_a_spike_is_told_with_its_examples(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("shared.run.spikes.LEAST", 4)
    caplog.set_level("WARNING", "wmtp")
    _, done = looped(tmp_path, {3: 50.0, 6: 10.0, 8: 10.5}, asynchronous=True)
    assert done.grad_spikes == 1
    (line,) = [x for x in caplog.messages if "norm" in x]
    assert line == (
        "the gradient of step 8 has norm 10.5, the median before it is 1; examples "
        "train/7"
    )


def test_the_median_is_of_the_newest_norms():
    done = Progressed({})
    for _ in range(LEAST - 1):
        assert spike_over(1.0, done) is None
    assert spike_over(2 * FACTOR, done) is None  # too early to judge
    assert spike_over(FACTOR + 1, done) == 1.0
    for _ in range(WINDOW):
        spike_over(FACTOR, done)
    assert spike_over(2 * FACTOR, done) is None and len(done.grad_norms) == WINDOW


def test_many_ids_are_cut():
    assert named_ids(["a", "b"]) == "examples a, b"
    ids = [str(n) for n in range(MOST_IDS + 3)]
    assert named_ids(ids).endswith(f", {MOST_IDS - 1} and 3 more")
