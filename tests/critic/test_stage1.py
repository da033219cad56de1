"""Stage 1 of the critic: what it learns from, where it starts, and that both agree."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

from shared import weighting
from shared.config.fields import Config, CriticConfig
from shared.critic.linear_fit import PENALTIES, fit_linear, start_head
from shared.critic.stage1 import Stage1
from shared.critic.states import States
from shared.data.documents import Document, Split
from shared.run.peers import ALONE
from shared.signals.kept import Signals
from tests import minis, oracle, torch_models
from tests.four_devices import said_on_four
from wmtp_jax import critic as jax_critic
from wmtp_jax import sharding
from wmtp_torch_mps import critic as torch_critic

D, T = 32, 12  # width of the models, tokens of a document


def split_of(name: str, count: int, seed: int) -> Split:
    """Documents of one letter each, over and over; not one of them has no target."""
    rng = np.random.default_rng(seed)
    documents = []
    for i in range(count):
        tokens = np.full(T, 40 + rng.integers(8), np.int32)
        target = (np.arange(T) >= 3) & (i > 0)
        documents.append(Document(f"{name}/{i}", tokens, target))
    return Split(name, tuple(documents), 0, name)


SPLITS = {name: split_of(name, n, n) for name, n in (("train", 60), ("validation", 9))}
# Every letter has a reward of its own: what a trunk says of a document tells it.
REWARD = {
    name: tuple(np.full(1, (d.tokens[0] - 43.5) / 2, np.float32) for d in s.documents)
    for name, s in SPLITS.items()
}
SIGNALS = Signals({}, {"reward": REWARD})


def config(**critic) -> Config:
    cfg = minis.config("critic", "linear", "soft over documents")
    data = replace(cfg.data, max_length=3 * T, batch_size=2)
    heads = replace(cfg.heads, count=1, weight=())
    defaults = {"stage1_epochs": 4, "stage1_lr": 1e-3}
    return replace(
        cfg, data=data, heads=heads, critic=CriticConfig(**defaults | critic)
    )


def stage1_of(cfg: Config, folder, **changes) -> Stage1:
    inputs = SimpleNamespace(splits=SPLITS)
    run = SimpleNamespace(cfg=cfg, path=folder, inputs=inputs, peers=ALONE)
    return Stage1(run, SIGNALS, **changes)


def stretched(cfg: Config):
    """Parameters whose trunk says large and small things, as pretrained ones do."""
    params = torch_models.start("linear", True)
    tree = {**params, "heads": {}}
    scale = tree["trunk"]["norm"]["scale"] * np.geomspace(0.01, 30, D)
    norm = tree["trunk"]["norm"] | {"scale": scale.astype(np.float32)}
    value = {**tree["value"], "mean": np.zeros(D, "f4"), "deviation": np.ones(D, "f4")}
    value |= {"outer": np.zeros(D // 2, "f4")}
    return {**tree, "trunk": tree["trunk"] | {"norm": norm}, "value": value}


def in_jax(cfg: Config, stage1: Stage1):
    mesh = sharding.make_mesh(cfg)
    params = jax.device_put(stretched(cfg), sharding.replicated(mesh))
    with stage1:
        head = jax_critic.train_value_head(
            params["value"], params["trunk"], cfg, stage1, mesh
        )
    return jax.device_get(head)


def in_torch(cfg: Config, stage1: Stage1):
    model = torch_models.torch_model(cfg, stretched(cfg))
    with stage1:
        torch_critic.train_value_head(model, stage1)
    head = model.value_head
    found = {"inner": head.inner.weight.T, "inner_bias": head.inner.bias}
    found |= {"outer": head.outer.weight[0], "outer_bias": head.outer.bias[0]}
    found |= {"mean": head.mean, "deviation": head.deviation}
    return {name: x.detach().numpy() for name, x in found.items()}


def test_it_finds_what_the_states_hold_and_both_trainers_the_same(tmp_path):
    heads = []
    for number, train in enumerate((in_jax, in_torch)):
        cfg = config(stage1_epochs=5, stage1_lr=1e-2)
        (folder := tmp_path / str(number)).mkdir()
        stage1 = stage1_of(cfg, folder)
        heads.append(train(cfg, stage1))
        assert stage1.linear_variance > 0.7
        assert stage1.explained_variance > stage1.linear_variance + 0.02
        assert not [*folder.iterdir()]  # its states took the disk for as long as it ran
    assert heads[0].keys() == heads[1].keys()
    for name, x in heads[0].items():
        np.testing.assert_allclose(heads[1][name], x, rtol=2e-3, atol=2e-3)


def test_the_trunk_is_asked_once_whatever_the_epochs(tmp_path, monkeypatch):
    asked = []
    forward = torch_critic.forward
    monkeypatch.setattr(
        torch_critic, "forward", lambda *a, **k: asked.append(a) or forward(*a, **k)
    )
    for epochs in (1, 6):
        in_torch(config(stage1_epochs=epochs), stage1_of(config(), tmp_path))
    rows = [-(-len(split.documents) // 3) for split in SPLITS.values()]
    assert len(asked) == 2 * sum(-(-n // 2) for n in rows)


def test_it_ends_when_validation_no_longer_improves(tmp_path):
    cfg = config(stage1_epochs=50, stage1_patience=2, stage1_lr=1.0)  # it only spoils
    stage1 = stage1_of(cfg, tmp_path)
    head = in_torch(cfg, stage1)
    assert (stage1.epoch, stage1.best_epoch) == (2, 0)
    assert stage1.explained_variance == pytest.approx(stage1.linear_variance, abs=1e-4)
    assert head["outer"][0] == -head["outer"][1] != 0  # the linear fit is what is left


def test_a_head_that_diverges_is_told(tmp_path):
    cfg = config(stage1_lr=1e30)
    with pytest.raises(FloatingPointError, match="value head: value_error must be"):
        in_torch(cfg, stage1_of(cfg, tmp_path))
    assert not [*tmp_path.iterdir()]


def states_of(cfg: Config, folder, name="train", most=10**9, answer=None) -> States:
    states = States(folder / name, SPLITS[name], {"reward": REWARD[name]}, cfg, most)
    for batch in states:
        plain = np.repeat(
            batch.tokens_BL[..., None] + batch.positions_BL[..., None], D, 2
        )
        states.keep(plain if answer is None else answer(batch))
    return states


def test_states_are_those_that_values_are_read_from_with_their_returns(tmp_path):
    cfg = config()
    found = states_of(cfg, tmp_path)
    right = []
    for document, reward in zip(
        SPLITS["train"].documents, REWARD["train"], strict=True
    ):
        target, ones = [document.target], [[1] * T]
        reward_BL = oracle.token_rewards([[0, reward[0]]], target, ones, "uniform")
        zeros = np.zeros((1, T))
        td_BL = oracle.td_errors(reward_BL, zeros, target, ones, cfg.critic.discount)
        advantage_BL = oracle.advantages(td_BL, target, ones, cfg.critic.discount, 1.0)
        return_L = oracle.returns(advantage_BL, zeros, target)[0]
        read = weighting.read_positions(document.target[None])[0]
        state = document.tokens + np.arange(T)
        right += zip(state[read].tolist(), np.asarray(return_L)[read], strict=True)
    got = zip(found.state_ND[:, 0].tolist(), found.return_N.tolist(), strict=True)
    np.testing.assert_allclose(sorted(got), sorted(right), atol=1e-6)


def test_more_than_the_disk_may_take_is_sampled_by_whole_documents(tmp_path):
    states = states_of(config(), tmp_path, most=100)
    assert len(states.return_N) == 99  # 9 of each document
    assert states.file.stat().st_size == 4 * D * 99
    with pytest.raises(ValueError, match="got room for 8"):
        states_of(config(), tmp_path, most=8)


def test_a_trunk_that_has_diverged_is_refused(tmp_path):
    with pytest.raises(ValueError, match="states must be finite"):
        states_of(
            config(),
            tmp_path,
            answer=lambda b: np.full((*b.tokens_BL.shape, D), np.nan),
        )


def noisy(seed: int, spread: float):
    """Answers that are a random line of the return, in numbers of many sizes."""
    rng = np.random.default_rng(seed)

    def answer(batch):
        x = rng.normal(size=(*batch.tokens_BL.shape, D)) * np.geomspace(0.01, 100, D)
        x[..., 3] = batch.signals["reward"] * 50 + spread * rng.normal(size=x.shape[:2])
        x[..., 7] = 5.0  # does not vary
        return x.astype(np.float32)

    return answer


def test_the_linear_fit_is_ridge_regression_with_the_best_penalty(tmp_path):
    cfg = config()
    train = states_of(cfg, tmp_path, "train", answer=noisy(0, 20.0))
    validation = states_of(cfg, tmp_path, "validation", answer=noisy(1, 20.0))
    fit = fit_linear(train, validation)
    X, y = np.asarray(train.state_ND, np.float64), train.return_N.astype(np.float64)
    mean, deviation = X.mean(0), X.std(0)
    deviation[7] = 1.0
    np.testing.assert_allclose(fit.mean_D, mean, atol=1e-9)
    np.testing.assert_allclose(fit.deviation_D, deviation, rtol=1e-9)
    X = (X - mean) / deviation
    errors = {}
    for penalty in PENALTIES[:-1]:
        rows = np.concatenate([X, np.sqrt(penalty * len(y)) * np.eye(D)])
        goal = np.concatenate([y - y.mean(), np.zeros(D)])
        weight = np.linalg.lstsq(rows, goal, rcond=None)[0]
        value = (np.asarray(validation.state_ND) - mean) / deviation @ weight + y.mean()
        errors[penalty] = (float(np.mean((value - validation.return_N) ** 2)), weight)
    best = min(errors.values(), key=lambda pair: pair[0])
    assert 0.2 < fit.explained_variance < 0.9
    np.testing.assert_allclose(fit.weight_D, best[1], atol=1e-9)


def test_where_nothing_is_to_be_learned_the_fit_is_the_mean(tmp_path):
    train = states_of(config(), tmp_path, "train", answer=noisy(0, 1e6))
    other = states_of(config(), tmp_path, "validation", answer=noisy(1, 1e6))
    fit = fit_linear(train, other)
    assert abs(fit.explained_variance) < 0.05
    head = start_head(fit, seed=3)
    assert all(np.isfinite(x).all() for x in head.values())


def test_the_start_says_what_the_fit_says_in_both_backends(tmp_path):
    train = states_of(config(), tmp_path, "train", answer=noisy(0, 20.0))
    fit = fit_linear(train, train)
    head, x_ND = start_head(fit, seed=3), np.asarray(train.state_ND)
    line_N = (x_ND - fit.mean_D) / fit.deviation_D @ fit.weight_D + fit.bias
    ours = jax_critic.read_values(head, jax.numpy.asarray(x_ND)[None])[0]
    model = torch_models.torch_model(config(), stretched(config()))
    model.value_head.start(head)
    theirs = model.value_head(torch.from_numpy(x_ND.copy())).detach()
    for value_N in (ours, theirs):
        np.testing.assert_allclose(value_N, line_N, atol=1e-5)
    assert np.linalg.matrix_rank(head["inner"]) == D // 2 - 1  # two sides of one line


FOUR = """
import sys
import numpy as np, jax
from pathlib import Path
from tests.critic import test_stage1 as here
from wmtp_jax import critic, sharding
cfg = here.config()
cfg = here.replace(cfg, data=here.replace(cfg.data, batch_size=4))
rows = []
frozen_hidden = critic._frozen_hidden

def seen(trunk, batch, cfg):
    jax.debug.inspect_array_sharding(
        batch.tokens_BL, callback=lambda s: rows.append(s.shard_shape((4, 3 * here.T)))
    )
    return frozen_hidden(trunk, batch, cfg)

critic._frozen_hidden = seen
stage1 = here.stage1_of(cfg, Path(sys.argv[1]), devices=len(jax.devices()))
head = here.in_jax(cfg, stage1)
print(rows[0][0], len(jax.devices()), stage1.explained_variance, *head["outer"][:4])
"""


@pytest.mark.slow
def test_four_devices_share_the_rows_and_say_the_same(tmp_path):
    cfg = config()
    cfg = replace(cfg, data=replace(cfg.data, batch_size=4))
    stage1 = stage1_of(cfg, tmp_path)
    outer_F = in_jax(cfg, stage1)["outer"]
    line = said_on_four(FOUR, str(tmp_path))
    rows, devices, *said = (float(x) for x in line.split())
    assert (rows, devices) == (1, 4)  # rows of a device
    right = [stage1.explained_variance, *outer_F[:4]]
    np.testing.assert_allclose(said, right, atol=1e-4)
