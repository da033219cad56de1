"""A run that diverges ends with code 1, and nothing of it is kept."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from shared.config.fields import WeightingConfig
from shared.files import write_json
from shared.run import finite
from shared.state.checkpoints import require_finite, steps_in
from tests.cases import shorter, shorter_rows
from tests.minis import config, minis
from tests.small import micro_batches, small_batch, small_config
from tests.torch_models import start_of, torch_model
from tests.trained import MODEL, PACE
from wmtp_jax import reference as jax_reference
from wmtp_jax import step as jax_step
from wmtp_jax import train as jax_train
from wmtp_jax.optimizer import make_optimizer, make_schedule
from wmtp_jax.sharding import make_mesh
from wmtp_jax.state import make_state, tensor_names
from wmtp_torch_mps import reference as torch_reference
from wmtp_torch_mps import train as torch_train
from wmtp_torch_mps.model import named
from wmtp_torch_mps.state import init_state
from wmtp_torch_mps.step import train_step as torch_step

BACKENDS = [jax_train, torch_train]
OVERFLOWS = ("--optimizer.lr", "1e30")  # its first update is finite, the next loss not


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps, evaluated", shorter_rows([(1, 1), (3, 99)], [(3, 99)]))
def test_a_diverged_run_fails_and_keeps_what_was_good(
    backend, steps, evaluated, tmp_path, capsys
):
    """At its last step, and where a step is saved that is not evaluated."""
    pace = ("--train.max-steps", str(steps), "--train.eval-every", str(evaluated))
    often = ("--train.save-every", "1", "--train.keep-checkpoints", "1")
    place = ("--output-dir", str(tmp_path), "--run-name", "a")
    options = [*MODEL, *PACE, *OVERFLOWS, *pace, *often, *place]
    assert backend.main(options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: validation nll of head 0 is ")
    assert "after step 1" in line
    run = tmp_path / "a"
    assert steps_in(run / "checkpoints") == [0]
    assert not (run / "model").exists() and not (run / "summary.json").exists()


def of_critic():
    """The value head's gradient is infinite; the loss, of noise for scores, is not."""
    noise = WeightingConfig(control="random")
    cfg = small_config("critic", heads=2, weighting=noise)
    tx = make_optimizer(cfg, 1)
    state = make_state(cfg, tx)
    outer = state.params["value"]["outer"] + 1e30
    params = {**state.params, "value": {**state.params["value"], "outer": outer}}
    state = replace(state, params=params)
    names = tensor_names(params)
    batch, schedule = micro_batches(small_batch(), 1), make_schedule(cfg.optimizer, 1)
    make = jax.jit(lambda s, b: jax_step.train_step(s, b, cfg=cfg, tx=tx,
                                                    schedule=schedule))  # fmt: skip
    return cfg, make(state, batch)[1], names, "value.inner"


def of_torch_critic():
    cfg = config("critic", "linear", "default")
    cfg = replace(cfg, weighting=replace(cfg.weighting, control="random"))
    model = torch_model(cfg, start_of(cfg))
    for name, parameter in named(model).items():
        if name.endswith("outer.weight") and "value" in name:
            parameter.data += 1e30
    _, metrics = torch_step(init_state(model), minis("packed", 1)[0], 1)
    return cfg, metrics, list(named(model)), "value_head.inner.weight"


@pytest.mark.parametrize(
    "make", shorter([of_critic, of_torch_critic], [of_torch_critic])
)
def test_a_gradient_that_is_not_finite_is_named(make):
    """Though the loss is finite."""
    cfg, metrics, names, first = make()
    assert np.isfinite(float(metrics["loss"]))
    read = finite.read_step(7, metrics, cfg, names)
    assert read.skipped and " at step 7" in read.fault
    assert f"gradient of {first}" in read.fault
    assert all(map(np.isfinite, read.metrics.values()))
    assert "loss" in read.metrics and "grad_norm_heads" not in read.metrics


def test_a_float16_gradient_may_overflow_but_not_for_ever():
    cfg = small_config(heads=1)
    half = replace(cfg, machine=replace(cfg.machine, dtype="float16"))
    metrics = {
        "loss": 2.0,
        "nll_head_0": 2.0,
        "rows_head_0": 3.0,
        "grad_norm_trunk": np.inf,
    }
    overflow = metrics | {"loss_scale": 0.5, finite.NOT_FINITE: 0}
    read = finite.read_step(1, overflow, half, ["a"])
    assert "grad_norm_trunk" not in read.metrics and read.metrics["loss"] == 2.0
    assert read.skipped and not read.fault
    bad = finite.read_step(1, overflow | {"loss": np.nan}, half, ["a"])
    assert "loss must be finite, got nan at step 1" in bad.fault
    with pytest.raises(FloatingPointError, match="loss_scale"):
        finite.read_step(1, metrics | {"loss_scale": 2.0**-40}, half, [])
    with pytest.raises(FloatingPointError, match="grad_norm_trunk must be finite"):
        finite.read_step(1, metrics, cfg, [])


@pytest.mark.parametrize("module", [jax_reference, torch_reference])
def test_a_reference_that_diverges_is_told(module, monkeypatch):
    """As its loss, before any token is held against it."""
    kept = {"loss": np.nan, "nll_head_0": np.nan, "rows_head_0": 5.0}
    cfg = small_config(heads=1)
    batches = (iter([None] * 2), 2)
    monkeypatch.setattr(module, "reference_batches", lambda *_: batches)
    monkeypatch.setattr(module, "make_state", lambda *_: SimpleNamespace(params={}))
    if module is jax_reference:
        made = (lambda state, batch: (state, kept)), []
        monkeypatch.setattr(module, "make_train_step", lambda *_: made)
    else:
        monkeypatch.setattr(module, "train_step", lambda state, *_: (state, kept))
        monkeypatch.setattr(module, "named", lambda model: {})
    with pytest.raises(FloatingPointError, match=r"reference: loss must .* at step 1"):
        module.train_reference(cfg, None, make_mesh(cfg))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_saved_is_finite(bad):
    """Parameters and moments, each called by its name."""
    good = np.ones((3, 2), np.float32)
    require_finite(4, [("a.b", good), ("step", np.int32(4))])
    worse = good.copy()
    worse[1, 1] = bad
    with pytest.raises(FloatingPointError, match=r"a\.c is not finite after step 4"):
        require_finite(4, [("a.b", good), ("a.c", worse)])


def test_json_holds_null_for_what_is_no_number(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"a": [1.5, float("nan")], "b": {"c": float("-inf"), "d": "nan"}})
    found = json.loads(file.read_text(), parse_constant=lambda word: 1 / 0)
    assert found == {"a": [1.5, None], "b": {"c": None, "d": "nan"}}
