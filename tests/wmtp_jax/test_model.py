"""The decoder: packing, heads, the start of training."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared.config.fields import Config, DataConfig, HeadsConfig, ModelConfig
from shared.head_types import HEAD_TYPES
from tests.cases import shorter
from wmtp_jax import heads, model, unembed

CFG = ModelConfig(
    num_layers=2, width=16, num_attention_heads=2, max_positions=32, vocab_size=31
)


@cache
def start(head_type="linear", count=3, cfg=CFG):
    config = HeadsConfig(count=count, type=head_type)
    init = jax.jit(heads.init_params, static_argnums=(1, 2))
    return init(jax.random.key(0), cfg, config), config


def run(params, tokens_BL, document_BL, cfg=CFG, **options):
    document_BL = np.asarray(document_BL, np.int32)
    positions_BL = np.zeros_like(document_BL)
    for row, numbers in enumerate(document_BL):
        for number in set(numbers.tolist()) - {0}:
            where = np.flatnonzero(numbers == number)
            positions_BL[row, where] = np.arange(len(where))
    forward = jax.jit(partial(model.forward, cfg=cfg))
    return forward(
        params["trunk"],
        jnp.asarray(tokens_BL),
        jnp.asarray(positions_BL),
        jnp.asarray(document_BL),
        **options,
    )


@partial(jax.jit, static_argnums=(2, 3))
def head_states(params, outputs, config, cfg=CFG):
    whole = Config(model=cfg, heads=config, data=DataConfig(max_length=32))
    return heads.head_states(params, outputs, whole)


@partial(jax.jit, static_argnums=(1, 4))
def all_nll(params, config, outputs, targets_BLK, cfg=CFG):
    states_KBLD = head_states(params, outputs, config, cfg)
    everywhere_BLK = jnp.ones(targets_BLK.shape, bool)
    return unembed.nll_heads(
        states_KBLD, targets_BLK, everywhere_BLK, *heads.unembeddings(params)
    )


def random_tokens(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, CFG.vocab_size, shape, np.int32)


def test_packed_documents_equal_the_documents_one_by_one():
    params, _ = start()
    tokens_BL = random_tokens(1, 12)
    packed = run(params, tokens_BL, [[1] * 5 + [2] * 4 + [0] * 3]).hidden_BLD
    first = run(params, tokens_BL[:, :5], [[1] * 5]).hidden_BLD
    second = run(params, tokens_BL[:, 5:9], [[1] * 4]).hidden_BLD
    np.testing.assert_allclose(packed[:, :5], first, atol=1e-5)
    np.testing.assert_allclose(packed[:, 5:9], second, atol=1e-5)
    assert bool(jnp.all(jnp.isfinite(packed)))


def test_a_position_does_not_see_later_tokens():
    params, config = start("block")
    tokens_BL = random_tokens(1, 8)
    changed_BL = tokens_BL.copy()
    changed_BL[0, 5] = (changed_BL[0, 5] + 1) % CFG.vocab_size
    states, changed = (
        head_states(params, run(params, t, [[1] * 8]), config)
        for t in (tokens_BL, changed_BL)
    )
    np.testing.assert_array_equal(states[:, :, :5], changed[:, :, :5])
    assert bool(jnp.any(states[:, :, 5:] != changed[:, :, 5:]))


@pytest.mark.parametrize("tied", shorter([True, False], [False]))
@pytest.mark.parametrize("head_type", shorter(HEAD_TYPES, ["linear", "block"]))
def test_head_0_is_the_base_model_untouched(head_type, tied):
    cfg = replace(CFG, tie_embeddings=tied)
    params, config = start(head_type, cfg=cfg)
    base, one = start(count=1, cfg=cfg)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool(jnp.all(a == b)), params["trunk"], base["trunk"])
    )
    tokens_BL, document_BL = random_tokens(2, 8), np.ones((2, 8), np.int32)
    targets_BLK = random_tokens(2, 8, 3, seed=1)
    nll_BLK = all_nll(params, config, run(params, tokens_BL, document_BL, cfg),
                      targets_BLK, cfg)  # fmt: skip
    base_BLK = all_nll(base, one, run(base, tokens_BL, document_BL, cfg),
                       targets_BLK[:, :, :1], cfg)  # fmt: skip
    np.testing.assert_array_equal(nll_BLK[:, :, 0], base_BLK[:, :, 0])


@pytest.mark.parametrize("head_type", ["residual", "medusa", "block"])
def test_heads_that_start_as_a_copy_do(head_type):
    params, config = start(head_type)
    outputs = run(params, random_tokens(1, 6), [[1] * 6])
    states_KBLD = head_states(params, outputs, config)
    if head_type != "block":
        np.testing.assert_array_equal(states_KBLD[1], outputs.hidden_BLD)
    else:
        last = jax.tree.map(lambda x: x[-1], params["trunk"]["blocks"])
        for name in ("attention", "up", "down"):
            copy = jax.tree.map(lambda x: x[0], params["heads"]["blocks"][name])
            jax.tree.map(np.testing.assert_array_equal, copy, last[name])
        np.testing.assert_array_equal(states_KBLD[1], states_KBLD[2])


@pytest.mark.slow
@pytest.mark.parametrize("head_type", shorter(HEAD_TYPES, ["block"]))
def test_every_head_gets_a_gradient_and_scales_the_trunks(head_type):
    params, config = start(head_type)
    tokens_BL = random_tokens(2, 8)
    targets_BLK = random_tokens(2, 8, 3, seed=1)

    @partial(jax.jit, static_argnums=1)
    @jax.grad
    def gradient(params, scale, k):
        cfg = replace(config, trunk_gradient_scale=scale)
        outputs = run(params, tokens_BL, np.ones((2, 8)))
        factor_BLK = jnp.zeros(targets_BLK.shape).at[:, :, k].set(1.0)
        states_KBLD = head_states(params, outputs, cfg)
        kept_BLK = factor_BLK > 0
        return unembed.weighted_nll_heads(
            *(states_KBLD, targets_BLK, kept_BLK, factor_BLK),
            *heads.unembeddings(params),
            shared_scale=scale,
        )[0]

    def norms(scale, k):
        grad = gradient(params, scale, k)
        return {
            name: float(sum(jnp.sum(g**2) for g in jax.tree.leaves(part)))
            for name, part in grad.items()
        }

    for k in (1, 2):
        assert norms(1.0, k)["heads"] > 0
    full, half, none = (norms(scale, 1)["trunk"] for scale in (1.0, 0.5, 0.0))
    assert half == pytest.approx(0.25 * full, rel=1e-4)
    assert none == 0
    assert norms(0.0, 0)["trunk"] == norms(1.0, 0)["trunk"] > 0


def test_a_medusa_head_of_zeros_learns():
    """silu'(0) = 1/2: half of what reaches its state reaches bias and matrix."""
    params, config = start("medusa")
    outputs = run(params, random_tokens(2, 8), np.ones((2, 8)))
    d_KBLD = np.random.default_rng(2).normal(size=(3, *outputs.hidden_BLD.shape))

    @jax.jit
    @jax.grad
    def gradient(of_heads):
        states_KBLD = head_states({**params, "heads": of_heads}, outputs, config)
        return jnp.sum(states_KBLD * d_KBLD)

    found = gradient(params["heads"])
    for k in (1, 2):
        half_RD = 0.5 * d_KBLD[k].reshape(16, -1)
        h_RD = np.asarray(outputs.hidden_BLD, np.float64).reshape(16, -1)
        np.testing.assert_allclose(found["bias"][k - 1], half_RD.sum(0), rtol=1e-4)
        right = h_RD.T @ half_RD
        np.testing.assert_allclose(found["kernel"][k - 1], right, rtol=1e-4, atol=1e-5)


def test_dropout_needs_a_key_and_depends_on_it():
    cfg = replace(CFG, dropout=0.5)
    params, _ = start(cfg=cfg)
    tokens_BL, document_BL = random_tokens(1, 6), np.ones((1, 6))
    outputs = [
        run(params, tokens_BL, document_BL, cfg, dropout_key=key).hidden_BLD
        for key in (None, None, jax.random.key(1), jax.random.key(2))
    ]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert bool(jnp.any(outputs[2] != outputs[3]))
    assert bool(jnp.any(outputs[0] != outputs[2]))
