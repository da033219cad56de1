"""A step that is not finite changes nothing but its number, in both trainers alike."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from shared.config.fields import OptimizerConfig
from shared.run.finite import NOT_FINITE, read_step
from tests.cases import shorter
from tests.minis import config, minis
from tests.torch_models import start_of, torch_model
from wmtp_jax import optimizer, sharding
from wmtp_jax import state as jax_state
from wmtp_jax.step import make_train_step
from wmtp_torch_mps import optimizer as torch_optimizer
from wmtp_torch_mps.model import learning
from wmtp_torch_mps.state import init_state
from wmtp_torch_mps.step import train_step

STEPS, WARM_UP = 4, 1


def config_of(name: str):
    """Without tied embeddings: a row of the embedding is read where its token is."""
    cfg = config("baseline", "linear", "uniform", family="llama")
    rule = OptimizerConfig(name=name, lr=1e-3, schedule="cosine")
    return replace(cfg, optimizer=rule)


def poisoned(cfg):
    """Parameters with a row of a token that one step alone has, and which that is."""
    steps = minis("packed", STEPS)
    of = [set(np.unique(x.tokens_BL[x.document_BL > 0]).tolist()) for x in steps]
    step = 1
    (token, *_) = sorted(of[step] - set().union(*(of[:step] + of[step + 1 :])))
    params = jax.tree.map(np.array, start_of(cfg))
    params["trunk"]["embed"][token] = np.nan
    return params, step


def bits(arrays):
    return [np.asarray(x).tobytes() for x in arrays]


def steps_in_jax(cfg, params):
    """By step: the metrics, and whether parameters, moments and count are as before."""
    tx = optimizer.make_optimizer(cfg, STEPS)
    mesh = sharding.make_mesh(cfg)
    state = jax_state.init_state(cfg, jax.tree.map(jnp.asarray, params), tx)
    state = jax.device_put(state, sharding.replicated(mesh))
    names = jax_state.tensor_names(state.params)
    jitted, _ = make_train_step(cfg, tx, STEPS, mesh)
    for number, batch in enumerate(minis("packed", STEPS), 1):
        before = bits(jax.tree.leaves(learned(state)))
        state, metrics = jitted(state, replace(batch, signals={}))
        same = bits(jax.tree.leaves(learned(state))) == before
        assert int(state.step) == number
        get, of = optax.tree_utils.tree_get, optimizer._counted_by_schedule
        assert int(get(state.opt_state, "count", filtering=of)) == number
        yield read_step(number, metrics, cfg, names), same


def learned(state):
    """All of a state that an update changes; steps are counted whatever they do."""
    of, put = optimizer._counted_by_schedule, optax.tree_utils.tree_set
    return state.params, put(state.opt_state, of, count=jnp.zeros((), jnp.int32))


def steps_in_torch(cfg, params):
    state = init_state(torch_model(cfg, params))
    names = [*learning(state.params)]
    for number, batch in enumerate(minis("packed", STEPS), 1):
        before = bits(tensors(state))
        state, metrics = train_step(state, replace(batch, signals={}), STEPS)
        assert state.step == number
        yield read_step(number, metrics, cfg, names), bits(tensors(state)) == before


def tensors(state):
    moments = state.optimizer.state.values()
    found = [*state.params.parameters(), *(x for of in moments for x in of.values())]
    return [x.detach().clone() for x in found if isinstance(x, torch.Tensor)]


@pytest.mark.parametrize("name", shorter(["adamw", "lion", "sgd"], ["adamw"]))
def test_a_bad_row_skips_the_step_of_its_example(name):
    """Both trainers make the same updates, and say the same of the one that is not."""
    cfg = config_of(name)
    params, bad = poisoned(cfg)
    found = [[*of(cfg, params)] for of in (steps_in_jax, steps_in_torch)]
    for steps in found:
        assert [read.skipped for read, _ in steps] == [n == bad for n in range(STEPS)]
        assert [same for _, same in steps] == [n == bad for n in range(STEPS)]
    jax_read, torch_read = (steps[bad][0] for steps in found)
    assert jax_read.metrics.keys() == torch_read.metrics.keys()
    assert "; the gradient of heads.unembed is not finite" in jax_read.fault
    assert "; the gradient of " in torch_read.fault
    sentences = [read.fault.partition(";")[0] for read in (jax_read, torch_read)]
    assert sentences == [f"loss must be finite, got nan at step {bad + 1}"] * 2
    for ours, theirs in zip(*found, strict=True):
        for key in ("loss", "lr"):
            if key in ours[0].metrics:
                there = theirs[0].metrics[key]
                assert ours[0].metrics[key] == pytest.approx(there, rel=1e-3)


@pytest.mark.parametrize("name", ["lion", "sgd"])
def test_torch_skips_with_every_optimizer(name):
    cfg = config_of(name)
    params, bad = poisoned(cfg)
    steps = [*steps_in_torch(cfg, params)]
    assert [read.skipped for read, _ in steps] == [n == bad for n in range(STEPS)]
    assert [same for _, same in steps] == [n == bad for n in range(STEPS)]


def test_a_rate_that_is_too_large_skips_all_that_comes_after():
    """The first update is finite, what it makes is not."""
    cfg = config_of("adamw")
    cfg = replace(cfg, optimizer=replace(cfg.optimizer, lr=1e30))
    steps = [*steps_in_torch(cfg, start_of(cfg))]
    assert [read.skipped for read, _ in steps] == [False, True, True, True]


def test_a_skipped_update_in_a_head_warm_up_is_none_of_the_trunk():
    """Optax: from the end of the warm-up the trunk's updates are counted from 1."""
    cfg = config_of("adamw")
    cfg = replace(cfg, heads=replace(cfg.heads, warmup_steps=WARM_UP))
    tx = optimizer.make_optimizer(cfg, STEPS)
    params = {"trunk": {"kernel": jnp.ones(3)}, "heads": {"kernel": jnp.ones(2)}}
    old = tx.init(params)
    _, new = tx.update(params, old, params, made=jnp.asarray(False))
    get, adam = optax.tree_utils.tree_get, optimizer._counted_by_adam
    for frozen, counted in ((True, 1), (False, 0)):
        flag = jnp.asarray(frozen)
        kept = optimizer.made_if(jnp.asarray(False), new, old, flag)
        assert int(get(kept, "count", filtering=adam)) == counted
        moments = [get(x, "mu") for x in (kept, old)]
        assert bits(jax.tree.leaves(moments[0])) == bits(jax.tree.leaves(moments[1]))


def test_the_fused_kernel_here_asks():
    """On a device whose kernel does not, the host does."""
    cpu = torch.device("cpu")
    assert torch_optimizer.kernel_asks(cpu)
    parameter = torch.nn.Parameter(torch.ones(3))
    rule = torch_optimizer.make_optimizer(OptimizerConfig(), {"a": parameter})
    for skipped, same in ((True, True), (False, False)):
        parameter.grad = torch.full((3,), 2.0)
        torch_optimizer.update_unless(torch.tensor(skipped), rule)
        assert torch.equal(parameter.detach(), torch.ones(3)) == same
        assert not hasattr(rule, "found_inf")


def test_only_a_metric_that_is_not_finite_skips_too():
    """Weights of NaN leave a loss of 0 and no gradient behind."""
    cfg = config("rho1-weighted", "linear", "default")
    state = init_state(torch_model(cfg, start_of(cfg)))
    (batch,) = minis("packed")
    state, _ = train_step(state, batch, STEPS)
    names, before = [*learning(state.params)], bits(tensors(state))
    bad = {name: x + np.float32(np.inf) for name, x in batch.signals.items()}
    state, metrics = train_step(state, replace(batch, signals=bad), STEPS)
    assert int(metrics[NOT_FINITE]) == len(names)
    assert bits(tensors(state)) == before
    assert " must be finite, got nan" in read_step(1, metrics, cfg, names).fault
