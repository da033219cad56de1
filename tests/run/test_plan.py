"""Of two limits the one that wins is said, and so is a jump of the learning rate."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from shared.config.fields import OptimizerConfig, TrackingConfig
from shared.run import plan
from shared.run.loop import Loop
from shared.run.peers import ALONE
from shared.run.watchdog import Watchdog
from shared.state.checkpoints import Progressed
from tests.cases import shorter
from tests.command_lines import run
from tests.small import small_batch, small_config
from tests.trained import MODEL, PACE, rows
from wmtp_jax import train as jax_train
from wmtp_jax.optimizer import rate_of
from wmtp_torch_mps import train as torch_train
from wmtp_torch_mps.optimizer import learning_rate

TRAIN = SimpleNamespace(steps_per_epoch=lambda epoch: 13)


def lines(caplog, words, documents=50):
    """What is said of the length of a run whose epochs have 13 steps."""
    asked = run(*words.split())
    split = SimpleNamespace(documents=[None] * documents)
    inputs = SimpleNamespace(cfg=asked.config, splits={"train": split})
    with caplog.at_level("INFO"):
        plan.plan_steps(inputs, asked.overrides, TRAIN)
    return caplog.messages


SAID = {
    "--train.max-steps 1000 --train.epochs 2": (
        "26 steps: train.epochs = 2 end before train.max_steps = 1000"
    ),
    "--train.max-steps 20 --train.epochs 9": "20 steps: train.max_steps",
    "--train.max-steps 0 --train.epochs 4": "52 steps: train.epochs = 4",
    "--train.max-steps 20 --train.eval-every 21": "evaluated only at the start",
    "--train.max-steps 20 --train.save-every 21": "saved only at the start",
    "--train.max-steps 20 --train.eval-every 10 --train.patience 2": (
        "train.patience = 2 cannot end the run: 1 evaluations"
    ),
    "--train.max-steps 20 --optimizer.warmup-steps 20": "the learning rate only rises",
    "--train.max-steps 20 --heads.warmup-steps 20": "the trunk is never trained",
    "--algo critic --critic.stage1-epochs 4 --critic.stage1-patience 4": (
        "critic.stage1_patience = 4 cannot end stage 1"
    ),
    "--data.max-examples 51": "data.max_examples = 51 leaves nothing out",
}


@pytest.mark.parametrize("words", SAID)
def test_the_limit_that_wins_is_said(words, caplog):
    found = [line for line in lines(caplog, words) if SAID[words] in line]
    assert len(found) == 1, caplog.messages


def test_nothing_is_said_of_limits_that_are_met(caplog):
    said = lines(
        caplog,
        "--train.max-steps 20 --train.eval-every 10 --train.save-every 20 "
        "--train.patience 1 --optimizer.warmup-steps 19 --data.max-examples 50 "
        "--algo critic --critic.stage1-epochs 4 --critic.stage1-patience 3",
    )
    assert len(said) == 1 and said[0].startswith("20 steps")


@pytest.mark.parametrize("rate", [rate_of, learning_rate])
def test_a_jump_of_the_rate_is_said_with_both_rates(rate, caplog):
    rule = OptimizerConfig(lr=1.0, schedule="linear", warmup_steps=2)
    cfg = small_config(heads=1, optimizer=rule)
    before = replace(cfg, train=replace(cfg.train, epochs=2, max_steps=12))
    longer = replace(cfg, train=replace(cfg.train, epochs=2, max_steps=22))

    def said(new, steps):
        caplog.clear()
        of = new.optimizer
        plan.log_jump(new, before, TRAIN, steps, lambda n, i: rate(of, n, i))
        return caplog.messages

    (line,) = said(longer, (12, 22))
    assert "from 1.00e-01 at step 12 to 5.00e-01 at step 13" in line
    assert "linear schedule now ends at step 22, before it ended at step 12" in line
    assert said(before, (6, 12)) == []  # goes on as it was
    assert said(longer, (1, 22)) == []  # still in its warm-up
    assert said(longer, (0, 22)) == []
    constant = replace(longer, optimizer=replace(rule, schedule="constant"))
    assert said(constant, (12, 22)) == []
    (line,) = said(before, (30, 12))
    assert "step 30 is past the end, step 12" in line


@pytest.mark.parametrize(
    "backend", [pytest.param(jax_train, marks=pytest.mark.slow), torch_train]
)
def test_a_finished_run_that_goes_on_says_so(backend, tmp_path, capsys):
    short = ("--optimizer.schedule", "cosine", "--train.max-steps", "4")
    place = ("--output-dir", str(tmp_path), "--run-name", "a")
    assert backend.main([*MODEL, *PACE, *short, *place]) == 0
    assert "learning rate" not in capsys.readouterr().out
    more = ("--resume", str(tmp_path / "a"), "--train.max-steps", "8")
    assert backend.main([*more]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "learning rate" in x]
    found = rows(tmp_path / "a")
    for step in (4, 5):
        assert f"{found[step]['lr']:.2e} at step {step}" in line


# The reference.


def warned(caplog, cfg, *, off=0.0):
    """The warnings of a first evaluation whose reference is `off` by that factor."""
    batch = small_batch().changed(np.asarray)
    total = float(batch.signals["ref_nll"].sum())
    alone = {"peers": ALONE, "watchdog": Watchdog(factor=0, least=1)}
    run = SimpleNamespace(cfg=cfg, path=None, resumed=False, started=0.0, **alone)
    loop = Loop(run, Progressed({}), 0, 3, iter([]), [batch])
    caplog.clear()
    nll_K = np.full(cfg.heads.count, total * (1 + off))
    with loop:
        for step in (0, 1):
            found = {"nll_K": nll_K, "count_K": np.ones(cfg.heads.count)}
            loop.evaluated(step, [found])
    return [x for x in caplog.messages if "the reference gives the nll" in x]


def test_a_reference_that_is_the_model_is_told_once(caplog):
    quiet = TrackingConfig(to="none")
    cfg = small_config("rho1-weighted", heads=2, tracking=quiet)
    assert len(warned(caplog, cfg)) == 1
    assert warned(caplog, cfg, off=1e-3) == []
    half = replace(cfg, machine=replace(cfg.machine, dtype="bfloat16"))
    assert len(warned(caplog, half, off=5e-4)) == 1
    noise = replace(cfg, weighting=replace(cfg.weighting, control="random"))
    assert warned(caplog, noise) == []
    assert warned(caplog, small_config("baseline", heads=2, tracking=quiet)) == []


@pytest.mark.parametrize("backend", shorter([jax_train, torch_train], [torch_train]))
def test_the_start_of_the_same_run_is_no_other_reference(backend, whole_run, tmp_path):
    """Whatever it is called: a checkpoint, a folder, an export."""
    start = whole_run(backend, "baseline") / "checkpoints" / "0"
    place = ("--output-dir", str(tmp_path), "--run-name", "a")
    options = ("--algo", "rho1-weighted", "--reference", str(start))
    few = ("--train.max-steps", "1")
    assert backend.main([*MODEL, *PACE, *options, *place, *few]) == 0
    log = (tmp_path / "a" / "train.log").read_text()
    assert log.count("the reference gives the nll of the model itself") == 1
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["exported_step"] == 1
