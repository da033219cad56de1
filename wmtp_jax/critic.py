"""The value head, and its first stage: trained alone on a frozen trunk.

Axes: B rows, L positions, D width, F = D // 2.
"""

from itertools import islice

import jax
import jax.numpy as jnp
import optax

from shared import algorithms, weighting
from shared.algorithms import Values
from shared.config.fields import Config
from shared.data.batches import Batch, TrainBatches
from shared.run.stage1 import Stage1
from wmtp_jax import model


def init_value_head(key: jax.Array, width: int) -> model.Params:
    """Linear D -> D // 2, ReLU, Linear -> 1, with biases; the last layer starts at 0.

    A zero last layer makes the first values 0, the mean of whitened rewards.
    """
    half = max(1, width // 2)
    return {
        "inner": jax.random.normal(key, (width, half)) * width**-0.5,
        "inner_bias": jnp.zeros((half,)),
        "outer": jnp.zeros((half,)),
        "outer_bias": jnp.zeros(()),
    }


def read_values(head: model.Params, hidden_BLD: jax.Array) -> jax.Array:
    """`value_BL`: what the head says at each position, float32."""
    hidden_BLD = hidden_BLD.astype(head["inner"].dtype)
    inner_BLF = jnp.einsum("bld,df->blf", hidden_BLD, head["inner"])
    inner_BLF = jax.nn.relu(inner_BLF + head["inner_bias"][None, None])
    return jnp.einsum("blf,f->bl", inner_BLF, head["outer"]) + head["outer_bias"]


def value_loss(
    head: model.Params,
    hidden_BLD: jax.Array,
    batch: Batch,
    member_BLS: jax.Array,
    cfg: Config,
) -> tuple[Values, tuple[jax.Array, jax.Array]]:
    """What the values should have been, and sum and count of the value loss.

    No gradient flows through what they should have been.
    """
    value_BL = read_values(head, hidden_BLD)
    fixed_BL, gae_lambda = jax.lax.stop_gradient(value_BL), cfg.critic.gae_lambda
    values = algorithms.value_targets(
        fixed_BL, batch, member_BLS, cfg, gae_lambda=gae_lambda
    )
    return values, weighting.value_loss(value_BL, values.return_BL, batch.target_BL)


def fixed_returns(
    head: model.Params, hidden_BLD: jax.Array, batch: Batch, cfg: Config
) -> tuple[jax.Array, jax.Array]:
    """`(value_BL, return_BL)`, with returns that do not move.

    With gae_lambda 1 a return is the discounted sum of the rewards after it, whatever
    the values are: the fixed measure of a critic.
    """
    value_BL = read_values(head, hidden_BLD)
    member_BLS = algorithms.members_of(batch)
    fixed_BL = jax.lax.stop_gradient(value_BL)
    values = algorithms.value_targets(fixed_BL, batch, member_BLS, cfg, gae_lambda=1.0)
    return value_BL, values.return_BL


def _frozen_hidden(trunk: model.Params, batch: Batch, cfg: Config) -> jax.Array:
    return model.forward(
        trunk,
        batch.tokens_BL,
        batch.positions_BL,
        batch.document_BL,
        cfg.model,
        cfg.machine,
    ).hidden_BLD


def make_stage1_step(cfg: Config, tx: optax.GradientTransformation):
    """One jitted update of the value head over `[A, B, L]` micro-batches."""

    def micro(carry, batch: Batch, head, trunk):
        hidden_BLD = _frozen_hidden(trunk, batch, cfg)
        member_BLS = algorithms.members_of(batch)

        def value_sum(head):
            return value_loss(head, hidden_BLD, batch, member_BLS, cfg)[1]

        (total, count), grad = jax.value_and_grad(value_sum, has_aux=True)(head)
        return jax.tree.map(jnp.add, carry, (total, count, grad)), None

    def step(head, opt_state, trunk, batches: Batch):
        zeros = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, head))
        (total, count, grad), _ = jax.lax.scan(
            lambda carry, batch: micro(carry, batch, head, trunk), zeros, batches
        )
        grad = jax.tree.map(lambda g: g / jnp.maximum(count, 1.0), grad)
        updates, opt_state = tx.update(grad, opt_state, head)
        return (
            optax.apply_updates(head, updates),
            opt_state,
            weighting.ratio(total, count),
        )

    return jax.jit(step, donate_argnames=("opt_state",))


def train_value_head(
    head: model.Params,
    trunk: model.Params,
    cfg: Config,
    train: TrainBatches,
    validation: list[Batch],
) -> tuple[model.Params, Stage1]:
    """Stage 1: only the value head learns; the best one, and how it was found."""
    tx = optax.chain(
        optax.clip_by_global_norm(cfg.optimizer.clip_norm),
        optax.adam(cfg.critic.stage1_lr),
    )
    step = make_stage1_step(cfg, tx)
    read = jax.jit(
        lambda head, trunk, batch: fixed_returns(
            head, _frozen_hidden(trunk, batch, cfg), batch, cfg
        )
    )
    best, opt_state, stage1 = head, tx.init(head), Stage1(cfg.critic)
    stage1.measured([read(head, trunk, batch) for batch in validation], validation)
    for epoch in stage1:
        for batches in islice(train, train.steps_per_epoch(epoch - 1)):
            head, opt_state, loss = step(head, opt_state, trunk, batches)
        values = [read(head, trunk, batch) for batch in validation]
        if stage1.measured(values, validation, loss):
            best = head
    return best, stage1
