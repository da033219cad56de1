"""Loss and step: right targets, constant weights, sums divided once, one trace."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shared import algorithms
from shared.algorithms import step_metrics
from shared.config.fields import HeadsConfig, ModelConfig, OptimizerConfig, TrainConfig
from shared.head_types import HEAD_TYPES
from tests.cases import shorter
from tests.small import (
    drawn_params,
    micro_batches,
    plain_nll_heads,
    small_batch,
    small_config,
)
from wmtp_jax import critic, heads, loss, optimizer, sharding, step
from wmtp_jax.state import init_state

WEIGHTED = ("rho1-weighted", "rho1-tokenskip", "critic")
UNEVEN = [[9, 4], [2], [12], [5, 5, 5], [], [16], [3, 3], [7, 8]]


@partial(jax.jit, static_argnums=2)
def weights_of(params, batch, cfg):
    """`(w_BLK, mask_BLK, nll_BLK, value_BL)`, jitted as the trainer does."""

    def run(params, batch):
        outputs, nll_BLK, mask_BLK = loss.run_heads(params, batch, cfg)
        value_BL = jnp.zeros_like(nll_BLK[:, :, 0])
        member_BLS, values = algorithms.members_of(batch), None
        if cfg.algorithm.value_head:
            value_BL = critic.read_values(params["value"], outputs.hidden_BLD)
            of = cfg.critic.gae_lambda
            values = algorithms.value_targets(
                value_BL, batch, member_BLS, cfg, gae_lambda=of
            )
        known = algorithms.Known(
            batch=batch, member_BLS=member_BLS, nll_BL=nll_BLK[:, :, 0], values=values
        )
        score_BL = algorithms.score_tokens(known, cfg)
        w_BLK = algorithms.weigh(score_BL, mask_BLK, known, cfg)
        return w_BLK, mask_BLK, nll_BLK, value_BL

    return jax.jit(run)(params, batch)


@partial(jax.jit, static_argnums=2)
def sums_of(params, batch, cfg):
    return loss.micro_batch_sums(params, batch, cfg)[0]


def loss_of(params, batch, cfg):
    sums = sums_of(params, batch, cfg)
    return float(sums.loss_sum / sums.weight)


@pytest.mark.parametrize("head_type", shorter(HEAD_TYPES, ["linear"]))
def test_every_head_learns_its_own_target_and_no_other(head_type):
    L, K = 24, 3
    rng = np.random.default_rng(0)
    tokens = rng.permutation(31)[:L].astype(np.int32)  # any K + 1 in a row differ
    batch = small_batch(1, L, lengths=[[L]])
    batch = replace(batch, tokens_BL=tokens[None])
    model = ModelConfig(
        num_layers=2, width=32, num_attention_heads=2, max_positions=32, vocab_size=31
    )
    cfg = small_config(heads=K, head_type=head_type, model=model)
    cfg = replace(
        cfg,
        optimizer=OptimizerConfig(lr=1e-2),
        data=replace(cfg.data, batch_size=1, max_length=L),
    )
    state, run, _ = assembled(cfg, 250)
    batches = micro_batches(batch, 1)
    for _ in range(250):
        state, metrics = run(state, batches)
    for k in range(K):
        assert float(metrics[f"nll_head_{k}"]) < 0.05, (head_type, k)
    shifted = replace(batch, tokens_BL=np.roll(batch.tokens_BL, -1, axis=1))

    @jax.jit
    def nll_of(params):
        _, right_BLK, mask_BLK = loss.run_heads(params, batch, cfg)
        states = heads.head_states(params, run_trunk(params, batch, cfg), cfg)
        wrong_targets = jnp.asarray(loss.shift_targets(shifted.tokens_BL, num_heads=K))
        unembeddings = heads.unembeddings(params)
        return (
            right_BLK, mask_BLK, plain_nll_heads(states, wrong_targets, *unembeddings)
        )  # fmt: skip

    right_BLK, mask_BLK, wrong_BLK = nll_of(state.params)
    valid_BLK = np.asarray(mask_BLK) & (np.arange(L)[None, :, None] < L - K - 1)
    for k in range(K):
        assert np.asarray(right_BLK)[..., k][valid_BLK[..., k]].mean() < 0.05
        assert np.asarray(wrong_BLK)[..., k][valid_BLK[..., k]].mean() > 2


def run_trunk(params, batch, cfg):
    return loss.model.forward(
        params["trunk"],
        batch.tokens_BL,
        batch.positions_BL,
        batch.document_BL,
        cfg.model,
    )


def assembled(cfg, num_steps):
    """State, jitted step and its traces as the trainer has them, from drawn parameters.

    (To draw them in JAX is a program to compile, as dear as a third of the step.)
    """
    tx = optimizer.make_optimizer(cfg, num_steps)
    mesh = sharding.make_mesh(cfg)
    run, traces = step.make_train_step(cfg, tx, num_steps, mesh)
    state = jax.jit(lambda params: init_state(cfg, params, tx))(drawn_params(cfg))
    return jax.device_put(state, sharding.replicated(mesh)), run, traces


@pytest.mark.parametrize("algo", shorter(WEIGHTED, ["critic"]))
def test_weights_do_something_and_mean_something(algo):
    cfg = small_config(algo)
    batch, params = (
        small_batch(lengths=[[12, 4], [16]]),
        drawn_params(small_config(algo)),
    )
    w_BLK, mask_BLK, *_ = (np.asarray(x) for x in weights_of(params, batch, cfg))
    w_N = w_BLK[mask_BLK.astype(bool)]
    assert w_N.sum() ** 2 / (w_N**2).sum() < 0.95 * len(w_N)
    plain = loss_of(params, batch, cfg)
    for control in ("shuffle", "random"):
        changed = replace(cfg, weighting=replace(cfg.weighting, control=control))
        assert abs(loss_of(params, batch, changed) - plain) > 1e-3
    # Other labels, other weights: the tokens of every document in another order.
    order = batch.permutation_BL
    relabelled = replace(
        batch,
        tokens_BL=np.take_along_axis(batch.tokens_BL, order, 1),
    )
    other_BLK = np.asarray(weights_of(params, relabelled, cfg)[0])
    assert np.abs(other_BLK - w_BLK).max() > 1e-2


@pytest.mark.parametrize("algo", shorter(WEIGHTED, ["critic"]))
def test_no_gradient_flows_through_the_weights(algo):
    cfg, batch = small_config(algo), small_batch()
    params = drawn_params(cfg)
    w_BLK, *_ = weights_of(params, batch, cfg)

    def constant(params):
        states_KBLD = heads.head_states(params, run_trunk(params, batch, cfg), cfg)
        targets_BLK, _ = loss.targets_of(batch, cfg)
        unembeddings = heads.unembeddings(params)
        return jnp.sum(w_BLK * plain_nll_heads(states_KBLD, targets_BLK, *unembeddings))

    def ours(params):
        return loss.micro_batch_sums(params, batch, cfg)[0].loss_sum

    expected, got = jax.jit(jax.grad(constant))(params), jax.jit(jax.grad(ours))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        expected,
        got,
    )


@pytest.mark.parametrize("algo", shorter(WEIGHTED[1:], ["critic"]))
def test_one_times_eight_is_eight_times_one(algo):
    batch = small_batch(8, lengths=UNEVEN, seed=3)
    results = []
    for accumulation in (1, 8):
        cfg = small_config(algo)
        cfg = replace(
            cfg,
            data=replace(cfg.data, batch_size=8 // accumulation),
            train=TrainConfig(accumulation=accumulation),
            critic=replace(cfg.critic, trunk_gradient=True),
        )
        gradient, sums, extremes = jax.jit(
            lambda state, batches, cfg=cfg: step.accumulate(state, batches, cfg)
        )(init_state(cfg, drawn_params(cfg), optax.identity()),
          micro_batches(batch, accumulation))  # fmt: skip
        results.append((gradient, sums, extremes))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results
    )


@pytest.mark.parametrize("trunk_gradient", shorter([False, True], [False]))
def test_one_step_of_the_critic_combines_both_losses_by_their_own_counts(
    trunk_gradient,
):
    cfg, batch = small_config("critic"), small_batch(lengths=[[9, 4], [2]])
    params = drawn_params(cfg)

    def total(params):
        sums, _ = loss.micro_batch_sums(params, batch, cfg)
        return sums.loss_sum / sums.weight + 0.1 * sums.value_sum / sums.value_count

    cfg = replace(cfg, critic=replace(cfg.critic, trunk_gradient=trunk_gradient))
    expected = jax.jit(jax.grad(total))(params)
    state = init_state(cfg, params, optax.identity())
    got, *_ = jax.jit(lambda s, b: step.accumulate(s, b, cfg))(
        state, micro_batches(batch, 1)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        expected,
        got,
    )


def cut_out(x_BL, start, n):
    """Those places alone, in a row of the same length: one program does for all."""
    return np.pad(x_BL[:, start : start + n], ((0, 0), (0, x_BL.shape[1] - n)))


@pytest.mark.parametrize("algo", shorter(WEIGHTED, ["rho1-weighted"]))
def test_packed_equals_one_by_one(algo):
    cfg = small_config(algo)
    params = drawn_params(cfg)
    packed = small_batch(1, lengths=[[9, 4]])
    one_by_one = []
    for start, n in ((0, 9), (9, 4)):
        alone = packed.changed(partial(cut_out, start=start, n=n))
        alone = replace(alone, document_BL=np.sign(alone.document_BL))
        one_by_one.append(sums_of(params, alone, cfg))
    together = sums_of(params, packed, cfg)
    separate = jax.tree.map(lambda a, b: a + b, *one_by_one)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        together,
        separate,
    )


@pytest.mark.parametrize("algo", shorter(WEIGHTED[::2], ["critic"]))
def test_a_batch_with_nothing_in_it_changes_nothing_but_decay(algo):
    cfg = small_config(algo, optimizer=OptimizerConfig(weight_decay=0.0))
    empty = small_batch(lengths=[[], [1]])
    state, run, _ = assembled(cfg, 1)
    before = jax.tree.map(np.asarray, state.params)
    state, metrics = run(state, micro_batches(empty, 1))
    assert all(np.isfinite(float(x)) for x in metrics.values())
    assert float(metrics["loss"]) == 0
    jax.tree.map(np.testing.assert_array_equal, before, state.params)


def test_traced_once_and_head_warmup_leaves_the_trunk_alone():
    cfg = small_config("critic")
    cfg = replace(cfg, heads=replace(cfg.heads, warmup_steps=2))
    state, run, traces = assembled(cfg, 4)
    start = jax.tree.map(np.asarray, state.params)
    for number in range(1, 4):
        state, _ = run(state, micro_batches(small_batch(seed=number), 1))
        moved = {
            name: any(
                bool(np.any(np.asarray(a) != b))
                for a, b in zip(
                    jax.tree.leaves(state.params[name]),
                    jax.tree.leaves(start[name]),
                    strict=True,
                )
            )
            for name in ("trunk", "heads", "value")
        }
        assert moved == {"trunk": number > 2, "heads": True, "value": True}
    assert len(traces) == 1


@pytest.mark.parametrize("name", shorter(["adamw", "lion", "sgd"], ["adamw"]))
def test_rates_of_the_groups_scale(name):
    base = OptimizerConfig(name=name, lr=1e-2, head_lr_scale=2.0, value_lr_scale=0.0)
    plain = replace(base, head_lr_scale=1.0, value_lr_scale=1.0)
    cfg = small_config("critic")
    params = drawn_params(cfg)
    gradient = jax.tree.map(jnp.cos, params)
    moves = []
    for one in (base, plain):
        tx = optimizer.make_optimizer(replace(cfg, optimizer=one), 1)
        moves.append(jax.jit(lambda p, g, tx=tx: tx.update(g, tx.init(p), p)[0])(
            params, gradient
        ))  # fmt: skip
    scaled, unscaled = moves
    assert optax.tree.norm(unscaled["value"]) > 0
    expected = {
        "trunk": unscaled["trunk"],
        "heads": jax.tree.map(lambda u: 2 * u, unscaled["heads"]),
        "value": jax.tree.map(jnp.zeros_like, unscaled["value"]),
    }
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), scaled, expected
    )


@pytest.mark.parametrize(
    "schedule, last", [("constant", 1.0), ("linear", 0.1), ("cosine", 0.1)]
)
def test_schedules_warm_up_and_end_where_they_say(schedule, last):
    rate = optimizer.make_schedule(
        OptimizerConfig(lr=1.0, schedule=schedule, warmup_steps=4, final_lr_scale=0.1),
        20,
    )
    got = [float(rate(n)) for n in range(21)]
    np.testing.assert_allclose(got[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    assert got[4] == pytest.approx(1.0)
    assert got[20] == pytest.approx(last, rel=1e-5)


def test_only_matrices_decay():
    decays = optimizer.is_matrix(drawn_params(small_config("critic", heads=2)))
    trunk = decays["trunk"]
    assert trunk["embed"] and trunk["blocks"]["up"]["kernel"]
    assert not trunk["place"] and not trunk["norm"]["scale"]
    assert not trunk["blocks"]["up"]["bias"]
    assert decays["heads"]["unembed"]
    assert not decays["value"]["inner_bias"]


@pytest.mark.slow
def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    cfg = small_config("critic")
    half = replace(cfg, machine=replace(cfg.machine, dtype="bfloat16"))
    params, batch = drawn_params(cfg), small_batch()
    shapes = jax.eval_shape(lambda: run_trunk(params, batch, cfg))
    assert shapes.hidden_BLD.dtype == jnp.float32
    exact, rough = loss_of(params, batch, cfg), loss_of(params, batch, half)
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.05)
    state, run, _ = assembled(half, 1)
    state, _ = run(state, micro_batches(batch, 1))
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}


def test_heads_beyond_the_documents_have_no_targets():
    cfg = small_config(heads=5)
    cfg = replace(cfg, heads=HeadsConfig(count=5))
    sums = sums_of(drawn_params(cfg), small_batch(lengths=[[3], [2]]), cfg)
    assert sums.rows_K.tolist() == [3.0, 1.0, 0.0, 0.0, 0.0]
    metrics = step_metrics(sums, loss.Extremes(jnp.ones(()), jnp.ones(())), cfg)
    assert float(metrics["nll_head_4"]) == 0
