"""Clipping, the type of the first moment, and the passes of an update over memory."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shared.config.fields import MachineConfig, OptimizerConfig
from tests.cases import shorter
from tests.small import drawn_params, small_config
from wmtp_jax import optimizer
from wmtp_jax.init_params import init_params


def random_like(params, seed, size=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(size * rng.normal(size=x.shape), x.dtype), params
    )


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 1.0, 1e6])
def test_clipping_is_that_of_optax(size):
    gradient = random_like(drawn_params(small_config()), 0, size)
    ours, theirs = optimizer._clip(0.5), optax.clip_by_global_norm(0.5)
    found, _ = ours.update(gradient, ours.init(gradient))
    right, _ = theirs.update(gradient, theirs.init(gradient))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert float(optax.tree.norm(found)) <= 0.5 * (1 + 1e-6)


def updated(cfg, steps=20):
    """Parameters and optimizer state after some updates by random gradients."""
    tx = optimizer.make_optimizer(cfg, steps)
    params = drawn_params(cfg)
    opt_state = tx.init(params)

    @jax.jit
    def update(params, opt_state, gradient):
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for step in range(steps):
        params, opt_state = update(params, opt_state, random_like(params, step))
    return params, opt_state


@pytest.mark.parametrize("name", shorter(["adamw", "lion", "sgd"], ["adamw"]))
def test_a_first_moment_in_bfloat16(name):
    """Half its memory, and the same way within what bfloat16 rounds."""
    cfg = small_config(optimizer=OptimizerConfig(name=name, lr=1e-3))
    half = replace(cfg, machine=MachineConfig(first_moment="bfloat16"))
    start = drawn_params(cfg)
    (params, _), (other, opt_state) = updated(cfg), updated(half)
    way = jax.tree.map(lambda a, b: a - b, params, start)
    apart = jax.tree.map(lambda a, b: a - b, params, other)
    share = float(optax.tree.norm(apart) / optax.tree.norm(way))
    # Lion takes signs: where rounding turns one, the whole step is another.
    assert 0 < share < (0.1 if name == "lion" else 0.01)
    key = {"sgd": "trace"}.get(name, "mu")
    kept = optax.tree_utils.tree_get(opt_state, key)
    assert {x.dtype for x in jax.tree.leaves(kept)} == {jnp.bfloat16.dtype}
    if name == "adamw":
        second = optax.tree_utils.tree_get(opt_state, "nu")
        assert {x.dtype for x in jax.tree.leaves(second)} == {jnp.float32.dtype}


@pytest.mark.parametrize("kept_in", ["float32", "bfloat16"])
def test_moments_go_out_in_float32_and_come_back_as_they_were(kept_in):
    cfg = small_config(machine=MachineConfig(first_moment=kept_in))
    params, opt_state = updated(cfg, 3)
    moments = optimizer.moments_of(opt_state, cfg.optimizer)
    assert {x.dtype for x in jax.tree.leaves(moments)} == {jnp.float32.dtype}
    fresh = optimizer.make_optimizer(cfg, 20).init(params)
    again = optimizer.with_moments(fresh, cfg.optimizer, moments, 3, 3)
    for a, b in zip(jax.tree.leaves(opt_state), jax.tree.leaves(again), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def traffic(cfg, clip):
    """What a compiled update reads and writes, and what it holds, over parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizer, "_clip", clip)
        tx = optimizer.make_optimizer(cfg, 10)
    shapes = jax.eval_shape(lambda: init_params(cfg))

    def update(params, opt_state, gradient):
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    compiled = (
        jax.jit(update, donate_argnums=(0, 1))
        .lower(shapes, jax.eval_shape(tx.init, shapes), shapes)
        .compile()
    )
    size = sum(4 * x.size for x in jax.tree.leaves(shapes))
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= 3 * size  # in place
    passes = compiled.cost_analysis()["bytes accessed"] / size
    return passes, memory.temp_size_in_bytes / size


def test_an_update_writes_parameters_and_moments_once_and_nothing_else():
    """The gradient is read for its norm (1) and by each moment, which is read and
    written (2 x 3); parameters read both and are written (4): 11 passes. XLA's CPU
    backend does not fuse the three. A clipped gradient would be written and read."""
    cfg = small_config()
    cfg = replace(cfg, model=replace(cfg.model, width=128, vocab_size=4000))
    passes, held = traffic(cfg, optimizer._clip)
    assert passes < 11.1 and held < 0.1
    passes, held = traffic(cfg, optax.clip_by_global_norm)
    assert passes > 12.5 and held >= 1
