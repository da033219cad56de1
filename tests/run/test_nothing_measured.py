"""A mean over nothing is no number: it is left out, and is never the best."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from shared.config.fields import HeadsConfig, TrackingConfig
from shared.run import finite, report
from shared.run.loop import Loop
from shared.run.peers import ALONE
from shared.run.validation import eval_metrics
from shared.run.watchdog import Watchdog
from shared.state.checkpoints import Progressed
from tests.cases import shorter
from tests.refused import write_rows
from tests.small import small_batch, small_config
from tests.trained import rows
from wmtp_jax import train as jax_train
from wmtp_torch_mps import train as torch_train

STEP = {
    "loss": 0.0,
    "value_loss": 0.0,
    "kept_fraction": 0.0,
    "weight_mean": 0.0,
    "grad_norm_trunk": 0.0,
}


def step_of(*rows_K):
    of_heads = {f"nll_head_{k}": 2.0 * (n > 0) for k, n in enumerate(rows_K)}
    return STEP | of_heads | {f"rows_head_{k}": n for k, n in enumerate(rows_K)}


def test_a_head_without_rows_has_no_nll():
    found = finite.measured(step_of(3.0, 0.0), small_config(heads=2))
    assert found == {k: x for k, x in step_of(3.0, 0.0).items() if k != "nll_head_1"}


def test_a_step_without_rows_has_no_loss_and_no_weights():
    found = finite.measured(step_of(0.0, 0.0), small_config(heads=2))
    assert found == {"grad_norm_trunk": 0.0, "rows_head_0": 0.0, "rows_head_1": 0.0}


def test_heads_that_weigh_nothing_make_no_loss():
    weighed = HeadsConfig(count=2, weight=(0.0, 1.0))
    cfg = replace(small_config(heads=2), heads=weighed)
    found = finite.measured(step_of(3.0, 0.0), cfg)
    assert "loss" not in found and found["nll_head_0"] == 2.0


def result(nll, count):
    zeros = np.zeros((2, 16))
    return {"nll_K": np.array(nll), "count_K": np.array(count),
            "value_BL": zeros, "return_BL": zeros}  # fmt: skip


def test_validation_reports_heads_that_have_targets():
    found = eval_metrics(
        [result([6.0, 0.0], [3, 0])], [small_batch()], small_config(heads=2)
    )
    assert found == {"eval_nll_head_0": 2.0}
    nothing = small_batch(lengths=[[1], []])
    cfg = small_config("critic", heads=2)
    assert eval_metrics([result([0.0, 0.0], [0, 0])], [nothing], cfg) == {}


def test_nothing_is_not_the_best(tmp_path):
    """The old 0.0 was, and no later evaluation could be better."""
    cfg = small_config(heads=1, tracking=TrackingConfig(to="none"))
    alone = {"peers": ALONE, "watchdog": Watchdog(factor=0, least=1)}
    run = SimpleNamespace(cfg=cfg, path=tmp_path, resumed=False, started=0.0, **alone)
    done = Progressed({})
    loop = Loop(run, done, 0, 3, iter([]), [small_batch()])
    with loop:
        loop.evaluated(0, [{"nll_K": [0.0], "count_K": [0.0]}])
        assert (done.best_nll, done.best_step, done.worse) == (None, 0, 0)
        loop.evaluated(1, [{"nll_K": [4.0], "count_K": [2.0]}])
        loop.evaluated(2, [{"nll_K": [0.0], "count_K": [0.0]}])
    assert (done.best_nll, done.best_step, done.worse) == (2.0, 1, 0)


def test_the_summary_shows_a_dash(tmp_path, capsys):
    summary = {"eval_before": {}, "eval_after": {"eval_nll_head_1": 2.0}, "steps": 3,
               "validation_unigram_entropy": None, "best_step": 0,
               "exported_step": None}  # fmt: skip
    report.finish(tmp_path, small_config(), summary, "")
    assert "nll_head_1  -       2.0000" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize("backend", shorter([jax_train, torch_train], [torch_train]))
def test_both_trainers_leave_out_heads_without_targets(backend, tmp_path):
    """Documents of four tokens have no target for a fourth head."""
    for split, first in {"train": 0, "validation": 50}.items():
        texts = [
            {"prompt": "ab", "completion": chr(65 + first // 5 + n)} for n in range(8)
        ]
        write_rows(tmp_path / "data" / f"{split}.jsonl", *texts)
    options = (
        f"--data {tmp_path / 'data'} --model smoke --heads 4 --train.max-steps 1 "
        f"--tracking jsonl --device cpu --output-dir {tmp_path} --run-name a"
    )
    assert backend.main(options.split()) == 0
    start, first = rows(tmp_path / "a").values()
    heads = {"nll_head_0", "nll_head_1", "nll_head_2"}
    assert {name for name in first if name.startswith("nll_")} == heads
    assert first["rows_head_3"] == 0
    assert start.keys() == {"step", *(f"eval_{name}" for name in heads)}
