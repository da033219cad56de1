"""Head warm-up in both trainers: the trunk starts as if the optimizer were new.

The rule is written here once more, by hand and in float64.
"""

from dataclasses import asdict, replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

from shared.config.fields import OptimizerConfig
from shared.data.tokenizer import load_tokenizer
from shared.run.peers import ALONE
from shared.state.checkpoints import Progressed
from shared.state.portable_state import write_training
from tests.cases import shorter
from tests.minis import gap
from tests.parity import by_name
from tests.small import drawn_params, micro_batches, small_batch, small_config
from wmtp_jax import checkpoint as jax_checkpoint
from wmtp_jax import export as jax_export
from wmtp_jax import optimizer as jax_optimizer
from wmtp_jax import sharding
from wmtp_jax import state as jax_state
from wmtp_jax import step as jax_step
from wmtp_torch_mps import checkpoint as torch_checkpoint
from wmtp_torch_mps import state as torch_state
from wmtp_torch_mps.init_params import load_params
from wmtp_torch_mps.model import group_of, named
from wmtp_torch_mps.step import train_step

WARMUP, STEPS = 3, 6
RULES = {
    "adamw": {},
    "lion": {"name": "lion"},
    "sgd": {"name": "sgd"},
}


def config_of(rule):
    cfg = small_config("critic", head_type="residual")
    of_rule = {"lr": 1e-2, "weight_decay": 0.1, "epsilon": 1e-6, "head_lr_scale": 2.0}
    return replace(
        cfg,
        heads=replace(cfg.heads, warmup_steps=WARMUP),
        optimizer=OptimizerConfig(value_lr_scale=1.0, **of_rule | RULES[rule]),
    )


def batch_of(number):
    return micro_batches(small_batch(seed=number), 1).changed(np.asarray)


def by_hand(cfg, p, g, kept, count, decaying):
    """The parameter after update `count` = 1, 2, ... of its group; changes `kept`."""
    rule = cfg.optimizer
    b1, b2 = rule.beta1, rule.beta2
    decay = rule.weight_decay * p if decaying else 0.0
    m, v = kept.get("m", 0.0), kept.get("v", 0.0)
    if rule.name == "adamw":
        kept["m"], kept["v"] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat = kept["m"] / (1 - b1**count)
        v_hat = kept["v"] / (1 - b2**count)
        return m_hat / (np.sqrt(v_hat) + rule.epsilon) + decay
    if rule.name == "lion":
        kept["m"] = b2 * m + (1 - b2) * g
        return np.sign(b1 * m + (1 - b1) * g) + decay
    kept["m"] = b1 * m + g + decay
    return kept["m"]


@cache
def programs(cfg):
    """The gradient of a step, the step, and the state that they begin with."""
    tx = jax_optimizer.make_optimizer(cfg, STEPS)
    schedule = jax_optimizer.make_schedule(cfg.optimizer, STEPS)
    step = partial(jax_step.train_step, cfg=cfg, tx=tx, schedule=schedule)
    gradient = partial(jax_step.accumulate, cfg=cfg)
    state = jax.jit(lambda params: jax_state.init_state(cfg, params, tx))
    return jax.jit(gradient), jax.jit(step), state(drawn_params(cfg))


class Jax:
    """Steps of the JAX trainer, and the clipped gradient of one."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.gradient, self.run, self.state = programs(cfg)

    def step(self, batch):
        self.state, _ = self.run(self.state, batch)

    def gradient_and_step(self, batch):
        gradient = by_name(self.gradient(self.state, batch)[0], self.cfg)
        trained = int(self.state.step) >= WARMUP
        norm = np.sqrt(
            sum(
                (g**2).sum()
                for name, g in gradient.items()
                if trained or group_of(name) != "trunk"
            )
        )
        self.step(batch)
        most = self.cfg.optimizer.clip_norm
        return {name: g * min(1.0, most / norm) for name, g in gradient.items()}

    def parameters(self):
        return by_name(self.state.params, self.cfg)


class Torch:
    """The same of the torch trainer."""

    def __init__(self, cfg):
        self.state = torch_state.init_state(load_params(cfg, torch.device("cpu")))

    def step(self, batch):
        train_step(self.state, batch, STEPS)

    def gradient_and_step(self, batch):
        self.step(batch)
        return {
            name: np.zeros(p.shape)
            if p.grad is None
            else p.grad.numpy().astype(np.float64)
            for name, p in named(self.state.params).items()
        }

    def parameters(self):
        found = named(self.state.params).items()
        return {name: p.detach().numpy().astype(np.float64) for name, p in found}


@pytest.mark.parametrize("rule", shorter(RULES, ["adamw"]))
@pytest.mark.parametrize("trainer", [Jax, Torch])
def test_the_trunk_starts_anew_when_it_is_freed(trainer, rule):
    cfg = config_of(rule)
    run, kept = trainer(cfg), {}
    for number in range(STEPS):
        before = run.parameters()
        gradient = run.gradient_and_step(batch_of(number))
        after = run.parameters()
        for name, p in before.items():
            late = WARMUP if group_of(name) == "trunk" else 0
            there = (number, name)
            if number < late:
                np.testing.assert_array_equal(after[name], p, err_msg=str(there))
                continue
            moments = kept.setdefault(name, {})
            rate = cfg.optimizer.lr * (2.0 if group_of(name) == "heads" else 1.0)
            decaying = p.ndim >= 2 and not name.endswith("wpe.weight")
            count = number + 1 - late
            move = by_hand(cfg, p, gradient[name], moments, count, decaying)
            right = -rate * move
            wrong = np.abs((after[name] - p) - right) > 1e-3 * rate
            # Lion's signs of what is rounding alone may differ.
            assert wrong.mean() <= (0.02 if rule == "lion" else 0), there


PLACE = asdict(Progressed({"epoch": 0, "step": 0}))
BYTES = load_tokenizer("bytes")


def to_torch(run, folder):
    """The state of a JAX trainer, exported and read by the torch trainer."""
    params = jax.device_get(run.state.params)
    kept = jax_export._training_state(run.state, PLACE, run.cfg, folder)
    write_training(folder / "out", params, kept, BYTES, folder)
    other = Torch(run.cfg)
    read = torch_checkpoint.read(folder / "out", run.cfg, torch.device("cpu"))
    other.state = read[0]
    return other


def to_jax(run, folder):
    """The inverse."""
    cfg = run.state.params.cfg
    torch_checkpoint.write(folder / "out", folder, run.state, PLACE, BYTES)
    mesh = sharding.make_mesh(cfg)
    run_ = SimpleNamespace(path=folder / "run", cfg=cfg, peers=ALONE)
    jax_export.adopt(folder / "out", run_, mesh)
    other = Jax(cfg)
    _, other.state, _ = jax_checkpoint.read_run(folder / "run", cfg)
    return other


CROSSINGS = (WARMUP - 1, WARMUP + 1)


@pytest.mark.parametrize("rule", shorter(RULES, ["adamw"]))
@pytest.mark.parametrize("crossing", shorter(CROSSINGS, CROSSINGS[:1]))
@pytest.mark.parametrize("trainer, cross", [(Jax, to_torch), (Torch, to_jax)])
def test_the_other_trainer_goes_on(trainer, cross, crossing, rule, tmp_path):
    cfg = config_of(rule)
    run = trainer(cfg)
    for number in range(crossing):
        run.step(batch_of(number))
    other = cross(run, tmp_path)
    for number in range(crossing, crossing + 3):
        run.step(batch_of(number))
        other.step(batch_of(number))
    found, right = other.parameters(), run.parameters()
    start = trainer(cfg).parameters()
    for name, x in right.items():
        if name.endswith("c_attn.bias"):  # of the keys: its gradient is rounding
            continue
        assert gap(found[name] - start[name], x - start[name]) < 1e-2, name


def test_a_checkpoint_of_before_is_gone_on_with():
    """Its arrays are those of a run without head warm-up: the count follows."""
    cfg = config_of("adamw")
    plain = replace(cfg, heads=replace(cfg.heads, warmup_steps=0))
    with_warmup, without = (
        jax_state.abstract_state(c, jax_optimizer.make_optimizer(c, STEPS))
        for c in (cfg, plain)
    )
    assert jax.tree.structure(with_warmup) == jax.tree.structure(without)
