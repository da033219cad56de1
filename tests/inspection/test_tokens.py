"""What is shown of a token is what a step computes, in both trainers."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from shared.algorithms import ALGORITHMS, step_metrics
from shared.config.fields import WeightingConfig
from shared.inspection.tokens import weigh_row
from tests.minis import config, first
from tests.small import drawn_params, small_batch, small_config
from tests.torch_models import start_of, torch_model
from wmtp_jax import loss, step
from wmtp_torch_mps import device
from wmtp_torch_mps import step as torch_step

T = 13  # tokens of the document, in a row of 16


def controls_of(algo):
    """Configs of an algorithm, without a control and with the one of its own scores."""
    plain = small_config(algo)
    if plain.rule == "uniform":
        return [plain]
    return [plain, replace(plain, weighting=WeightingConfig(control="shuffle"))]


def of_steps(cfgs, params, batch, monkeypatch):
    """Of each config a step's metrics and its weights; and what `eval_step` gives."""
    weigh = loss.weigh

    def run(params, batch):
        steps = []
        for cfg in cfgs:
            found = []

            def kept(*arguments, found=found):
                found.append(weigh(*arguments))
                return found[0]

            monkeypatch.setattr(loss, "weigh", kept)
            sums, extremes = loss.micro_batch_sums(params, batch, cfg)
            steps.append((step_metrics(sums, extremes, cfg), found[0]))
        return steps, step.eval_step(params, batch, cfg=cfgs[0])

    return jax.device_get(jax.jit(run)(params, batch))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_weights_are_those_of_a_step(algo, monkeypatch):
    """Its own and those of a control, which moves the scores of the same example."""
    cfgs, batch = controls_of(algo), small_batch(1, lengths=[[T]])
    params = drawn_params(cfgs[0])
    steps, result = of_steps(cfgs, params, batch, monkeypatch)
    scores = []
    for cfg, (metrics, w_BLK) in zip(cfgs, steps, strict=True):
        shown = weigh_row(batch.changed(np.asarray), 0, result, cfg)
        assert_weights(shown, w_BLK, cfg)
        for name in ("mean", "min", "max", "ess", "entropy"):
            of = f"weight_{name}"
            assert shown.metrics[of] == pytest.approx(metrics[of], rel=1e-5), name
        assert shown.metrics["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
        scores.append(shown.numbers.get("score", np.zeros(T))[1:])
    if len(cfgs) > 1:
        assert not np.array_equal(*scores)
        np.testing.assert_array_equal(*map(np.sort, scores))


def assert_weights(shown, w_BLK, cfg):
    """Token by token the weights of a step, where a head has a target at all."""
    for k in range(cfg.heads.count):
        own_T = shown.weight_TK[:, k]
        assert np.isnan(own_T[: k + 1]).all() and not np.isnan(own_T[k + 1 :]).any()
        np.testing.assert_allclose(
            own_T[k + 1 :], w_BLK[0, : T - 1 - k, k], rtol=1e-5, atol=1e-7
        )
    assert (np.nanstd(shown.weight_TK) == 0) == (cfg.rule == "uniform")
    dropped = int((shown.weight_TK[:, 0] == 0).sum())
    assert dropped == ((T - 1) * 3 // 10 if cfg.rule == "skip" else 0)


def test_what_an_algorithm_knows_of_a_token():
    """The TD error is made of the numbers shown; head 0's nll of the score."""
    batch = small_batch(1, lengths=[[T]]).changed(np.asarray)
    rng = np.random.default_rng(2)
    nll_BLK = rng.gamma(3, 1, (1, 16, 3)).astype(np.float32)
    value_BL = rng.normal(size=(1, 16)).astype(np.float32)
    result = {"nll_BLK": nll_BLK, "value_BL": value_BL}
    rho1 = weigh_row(batch, 0, result, small_config("rho1-weighted"))
    assert [*rho1.numbers] == ["ref_nll", "score"]
    excess = rho1.nll_TK[:, 0] - rho1.numbers["ref_nll"]
    np.testing.assert_allclose(rho1.numbers["score"][1:], excess[1:], rtol=1e-6)
    critic = weigh_row(batch, 0, result, small_config("critic"))
    assert [*critic.numbers] == ["ref_nll", "reward", "value", "td_error", "score"]
    own = critic.numbers
    expected = own["reward"][1:-1] + 0.99 * own["value"][2:] - own["value"][1:-1]
    np.testing.assert_allclose(own["td_error"][1:-1], expected, rtol=1e-4, atol=1e-6)
    assert np.isnan(own["value"][0])
    assert not weigh_row(batch, 0, result, small_config()).numbers.get("score")


def test_bounds_that_hold_a_weight_are_told():
    batch = small_batch(1, lengths=[[T]]).changed(np.asarray)
    nll_BLK = np.zeros((1, 16, 1), np.float32)
    nll_BLK[0, 3], nll_BLK[0, 5] = 90, -90
    cfg = small_config("rho1-weighted", heads=1)
    shown = weigh_row(batch, 0, {"nll_BLK": nll_BLK}, cfg)
    assert shown.clipped_TK[4, 0] == 1 and shown.weight_TK[4, 0] == 3
    assert shown.clipped_TK[6, 0] == -1
    inside = (shown.weight_TK > 0.051) & (shown.weight_TK < 2.999)
    assert inside.any() and not shown.clipped_TK[inside].any()
    broken = {"nll_BLK": np.where(nll_BLK == 90, np.nan, nll_BLK)}
    assert shown.is_finite and not weigh_row(batch, 0, broken, cfg).is_finite


@pytest.mark.parametrize("algo", ["critic", "rho1-tokenskip"])
def test_both_trainers_show_the_same(algo):
    cfg = config(algo, "linear", "default")
    params, batch = start_of(cfg), first("padded", "float32")
    ours = jax.jit(lambda p, b: step.eval_step(p, b, cfg=cfg))(params, batch)
    other = torch_step.eval_step(
        torch_model(cfg, params), device.to_device(batch, torch.device("cpu"))
    )
    shown = [weigh_row(batch, 0, jax.device_get(x), cfg) for x in (ours, other)]
    pairs = [(x.weight_TK, x.nll_TK, *x.numbers.values()) for x in shown]
    for mine, its in zip(*pairs, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=4e-5)
    assert np.array_equal(shown[0].clipped_TK, shown[1].clipped_TK)
