"""Where memory runs out, micro-batches are halved: the same rows, the same step."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from shared.config.fields import DataConfig, OptimizerConfig
from shared.run.memory import fitting_splits, next_splits
from shared.state.manifest import write_manifest
from tests import trained
from tests.resuming import rows_of
from tests.small import drawn_params, micro_batches, small_batch, small_config
from tests.trained import STEPS
from wmtp_jax import fitting, optimizer, sharding, step, train
from wmtp_jax.state import init_state

ERROR = "RESOURCE_EXHAUSTED: Out of memory allocating 6400000020 bytes.\nand much more"


def full_beyond(rows, monkeypatch, *, at_call=1, gone=False):
    """A device that holds so many rows at a time; from a call of the step on.

    Args:
      gone: whether the state is lost with the call, as XLA does on a CPU.
    """
    calls, compile_step = [], fitting.compile_step

    def compiled(jitted, state, cfg):
        program = compile_step(jitted, state, cfg)

        def call(state, batches):
            calls.append(batches.tokens_BL.shape[:2])
            if batches.tokens_BL.shape[1] > rows and len(calls) >= at_call:
                if gone:
                    jax.tree.map(lambda x: x.delete(), state)
                raise jax.errors.JaxRuntimeError(ERROR)
            return program(state, batches)

        call.memory_analysis = program.memory_analysis
        return call

    monkeypatch.setattr(fitting, "compile_step", compiled)
    return calls


FOUR = small_config(
    heads=1,
    data=DataConfig(max_length=16, batch_size=4),
    optimizer=OptimizerConfig(name="sgd"),  # Adam decides by the sign of rounding
)


def rows_of_four():
    batch = replace(small_batch(rows=4, lengths=[[12]] * 4), signals={})
    return micro_batches(batch, 1).changed(np.asarray)


def fitted(cfg, splits=1):
    tx = optimizer.make_optimizer(cfg, 10)
    mesh = sharding.make_mesh(cfg)
    jitted, _ = step.make_train_step(cfg, tx, 10, mesh)
    made = fitting.FittedStep(jitted, cfg, mesh, lambda batch: batch, splits)
    return made, init_state(cfg, drawn_params(cfg), tx)


@pytest.mark.slow
def test_halves_make_the_same_step(monkeypatch, caplog):
    """To rounding, with the same rows in the same order."""
    caplog.set_level("WARNING", "wmtp")
    batches = rows_of_four()
    whole, state = fitted(FOUR)
    right_state, right = whole(1, state, batches)
    calls = full_beyond(2, monkeypatch)
    halved, state = fitted(FOUR)
    new_state, metrics = halved(1, state, batches)
    assert calls == [(1, 4), (2, 2)] and halved.splits == 2
    assert metrics.pop("micro_batch_rows") == 2
    for name, x in right.items():
        assert float(metrics[name]) == pytest.approx(float(x), rel=1e-5, abs=1e-6), name
    for a, b in zip(
        jax.tree.leaves(new_state.params),
        jax.tree.leaves(right_state.params),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    said = (
        "out of memory: step 1 runs again in micro-batches of 2 rows, the same global"
    )
    assert said in caplog.messages[0] and "much more" not in caplog.text


def test_one_row_that_does_not_fit_is_told(monkeypatch):
    """Whether its program cannot be compiled, or cannot run."""

    def full(*_):
        raise jax.errors.JaxRuntimeError(ERROR)

    for compile_step in (full, lambda *_: full):
        monkeypatch.setattr(fitting, "compile_step", compile_step)
        small, state = fitted(FOUR, splits=2)
        with pytest.raises(MemoryError, match="a micro-batch of one row must fit into"):
            small(1, state, rows_of_four())
        assert small.splits == 4


def test_another_error_is_no_lack_of_memory(monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(fitting, "compile_step", broken)
    made, state = fitted(FOUR)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        made.compile(state)


@pytest.mark.parametrize(
    "rows, splits, devices, parts",
    [(8, 1, 1, 2), (6, 2, 1, 3), (8, 1, 4, 2), (12, 2, 2, 3), (8, 2, 4, None)],
)
def test_parts_are_those_that_devices_can_share(rows, splits, devices, parts):
    if parts is None:
        with pytest.raises(MemoryError, match="one row on each device"):
            next_splits(rows, splits, "full", devices)
    else:
        assert next_splits(rows, splits, "full", devices) == parts
        assert fitting_splits(rows, parts, devices) == parts
    assert fitting_splits(8, 4, 4) == 2  # of a run that has more devices now


@pytest.mark.slow
def test_a_resumed_run_begins_as_it_ended(whole_run, tmp_path, monkeypatch):
    """In halves, whether they are needed now or not."""
    run = trained.cut(trained.copy_of(whole_run(train, "baseline"), tmp_path), 9)
    saved = run / "checkpoints" / "9"
    position = json.loads((saved / "position.json").read_text())
    (saved / "position.json").write_text(
        json.dumps(position | {"micro_batch_splits": 2})
    )
    write_manifest(saved, 9)
    calls = full_beyond(4, monkeypatch)
    assert train.main(["--resume", str(run)]) == 0
    assert calls == [(2, 2)] * (STEPS - 9)


@pytest.mark.parametrize("gone", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_goes_on_in_halves(gone, tmp_path, monkeypatch, whole_run):
    """Also where the state was lost: from the last checkpoint, in the same rows."""
    right = rows_of(whole_run(train, "baseline"))
    calls = full_beyond(2, monkeypatch, at_call=5, gone=gone)
    run = trained.run(train, tmp_path, "halved")
    rows = rows_of(run)
    first = 4 if gone else 5
    assert [row["step"] for row in rows] == [*range(STEPS + 1)]
    assert [row["step"] for row in rows if "micro_batch_rows" in row] == [
        *range(first, STEPS + 1)
    ]
    for row, other in zip(rows, right, strict=True):
        # Updates of Adam enlarge what sums in another order differ by.
        assert all(row[n] == pytest.approx(x, rel=1e-3) for n, x in other.items())
    assert json.loads((run / "summary.json").read_text())["micro_batch_splits"] == 2
    log = (run / "train.log").read_text()
    assert ("step 5 has left no state behind: back to step 3" in log) == gone
    position = json.loads((run / "checkpoints" / "9" / "position.json").read_text())
    assert position["micro_batch_splits"] == 2
    assert calls[-1] == (2, 2)
