"""The value head, and its first stage: trained alone on a frozen trunk.

Axes: B rows, L positions, M rows of an update in stage 1, D width, F = D // 2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from shared import algorithms, weighting
from shared.algorithms import Values
from shared.config.fields import Config
from shared.critic.stage1 import EPSILON, Stage1
from shared.data.batches import Batch
from wmtp_jax import model, processes, sharding

STANDARDS = ("mean", "deviation")  # of what the head reads; stage 1 measures them


def init_value_head(key: jax.Array, width: int) -> model.Params:
    """Linear D -> D // 2, ReLU, Linear -> 1, with biases; the last layer starts at 0.

    A zero last layer makes the first values 0, the mean of whitened rewards. What the
    head reads is standardised by `mean` and `deviation`, which stage 1 measures.
    """
    half = max(1, width // 2)
    return {
        "mean": jnp.zeros((width,)),
        "deviation": jnp.ones((width,)),
        "inner": jax.random.normal(key, (width, half)) * width**-0.5,
        "inner_bias": jnp.zeros((half,)),
        "outer": jnp.zeros((half,)),
        "outer_bias": jnp.zeros(()),
    }


def without_standards(tree: dict[str, Any]) -> dict[str, Any]:
    """A state as it was before value heads had `mean` and `deviation`."""

    def older(node: Any) -> Any:
        if not _is_value_head(node):
            return node
        return {name: x for name, x in node.items() if name not in STANDARDS}

    return jax.tree.map(older, tree, is_leaf=_is_value_head)


def with_standards(tree: dict[str, Any]) -> dict[str, Any]:
    """Such a state as it is now: its head reads the trunk's states as they are."""

    def newer(node: Any, deviation: float) -> Any:
        if not _is_value_head(node):
            return node
        zeros = jnp.zeros((node["inner"].shape[0],), node["inner"].dtype)
        return {**node, "mean": zeros, "deviation": zeros + deviation}

    def all_newer(part: Any, deviation: float) -> Any:
        return jax.tree.map(
            lambda node: newer(node, deviation), part, is_leaf=_is_value_head
        )

    params, moments = all_newer(tree["params"], 1.0), all_newer(tree["opt_state"], 0.0)
    return {**tree, "params": params, "opt_state": moments}


def _is_value_head(node: Any) -> bool:
    return isinstance(node, dict) and {"inner", "outer_bias"} <= node.keys()


def read_values(head: model.Params, hidden_BLD: jax.Array) -> jax.Array:
    """`value_BL`: what the head says at each position, float32."""
    mean_D, deviation_D = jax.lax.stop_gradient((head["mean"], head["deviation"]))
    hidden_BLD = hidden_BLD.astype(head["inner"].dtype)
    hidden_BLD = (hidden_BLD - mean_D[None, None]) / deviation_D[None, None]
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


def _frozen_hidden(
    trunk: model.Params, batch: Batch, cfg: Config, mesh: Mesh
) -> jax.Array:
    return model.forward(
        trunk,
        batch.tokens_BL,
        batch.positions_BL,
        batch.document_BL,
        cfg.model,
        cfg.machine,
        mesh=mesh,
    ).hidden_BLD


def make_stage1_step(
    cfg: Config, tx: optax.GradientTransformation, mesh: Mesh
) -> Callable[..., Any]:
    """One jitted update of the value head over rows `[M, D]`; all devices take part."""

    def step(head, opt_state, state_MD, return_M, counts_M):
        def mean_error(head):
            value_M = read_values(head, state_MD[None])[0]
            total, count = weighting.squared_errors(value_M, return_M, counts_M)
            return weighting.ratio(total, count)

        loss, gradient = jax.value_and_grad(mean_error)(head)
        updates, opt_state = tx.update(gradient, opt_state, head)
        return optax.apply_updates(head, updates), opt_state, loss

    whole = sharding.replicated(mesh)
    rows = sharding.split_rows(mesh, micro_batches=False)
    jitted = jax.jit(step, in_shardings=(whole, whole, rows, rows, rows))

    def update(head, opt_state, *of_rows):
        if jax.process_count() > 1:
            of_rows = processes.spread(of_rows, rows)
        return jitted(head, opt_state, *of_rows)

    return update


def train_value_head(
    head: model.Params, trunk: model.Params, cfg: Config, stage1: Stage1, mesh: Mesh
) -> model.Params:
    """Stage 1: only the value head learns; the best one."""
    hidden = sharding.jit_pass(
        lambda trunk, batch: _frozen_hidden(trunk, batch, cfg, mesh), mesh
    )
    for batch in stage1.batches():
        stage1.keep(hidden(trunk, batch))
    values = sharding.jit_pass(lambda head, x: read_values(head, x[None])[0], mesh)

    def is_best(head: model.Params, loss: Any = 0.0) -> bool:
        found = [values(head, state_MD) for state_MD in stage1.validation()]
        return stage1.measured(found, loss)

    start = processes.of_first(stage1.start())
    start = processes.spread(start, sharding.replicated(mesh))
    is_best(start)
    head = best = head if is_best(head) else start  # a folder's may be the better one
    tx = optax.chain(
        optax.clip_by_global_norm(cfg.optimizer.clip_norm),
        optax.adam(cfg.critic.stage1_lr, eps=EPSILON),
    )
    step, opt_state = make_stage1_step(cfg, tx, mesh), tx.init(head)
    for epoch in stage1.epochs():
        for rows in stage1.rows(epoch):
            head, opt_state, loss = step(head, opt_state, *rows)
        if is_best(head, loss):
            best = head
    return best
