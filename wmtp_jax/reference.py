"""Frozen models: one is trained first if nobody names it, and they pass over the data.

What a pass leaves per document fills the signal cache (`shared/find_signals.py`).

Axes: B rows, L positions, K heads, D width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from shared.axes import shift_to_tokens
from shared.batches import Batch
from shared.config import Config
from shared.data import Split
from shared.passes import (
    last_score,
    over_documents,
    reference_batches,
    run_steps,
    token_nll,
)
from wmtp_jax import model, sharding
from wmtp_jax.loss import run_heads
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.state import make_state
from wmtp_jax.step import make_train_step


def place(tree: model.Params, cfg: Config, mesh: Mesh) -> model.Params:
    """A tree of NumPy arrays on the devices."""
    del cfg
    return jax.device_put(tree, sharding.replicated(mesh))


def train_reference(cfg: Config, split: Split, mesh: Mesh) -> model.Params:
    """Plain next-token training of the start model on the `reference` split."""
    batches, num_steps = reference_batches(cfg, split)
    tx = make_optimizer(cfg, num_steps)
    state = jax.device_put(make_state(cfg, tx), sharding.replicated(mesh))
    step, _ = make_train_step(cfg, tx, num_steps, mesh)
    return run_steps(state, step, batches, num_steps).params


def measure_ref_nll(
    params: model.Params, cfg: Config, split: Split, mesh: Mesh
) -> tuple[np.ndarray, ...]:
    """`ref_nll[j]` of every token of every document; 0 where it is no target."""

    def head_0_nll(params: model.Params, batch: Batch) -> jax.Array:
        _, nll_BLK, _ = run_heads(params, batch, cfg, mesh=mesh)
        nll_BL = shift_to_tokens(nll_BLK[:, :, 0])
        return jnp.where(batch.target_BL, nll_BL, 0.0)

    answer = _on(mesh, head_0_nll, params)
    return over_documents(answer, token_nll, cfg, split, f"ref_nll of {split.name}")


def measure_scores(
    params: model.Params,
    cfg: Config,
    split: Split,
    mesh: Mesh,
    pad_id: int | None = None,
) -> tuple[np.ndarray, ...]:
    """Score `[1]` of every document: the reward model's at its last token.

        score = hidden[last] . w        (after the final norm, no bias)

    `last` is the last token that is not `pad_id` (`passes.last_score`).
    """

    def scores(params: model.Params, batch: Batch) -> jax.Array:
        hidden_BLD = model.forward(
            params["trunk"],
            batch.tokens_BL,
            batch.positions_BL,
            batch.document_BL,
            cfg.model,
            cfg.machine,
        ).hidden_BLD
        hidden_BLD = hidden_BLD.astype(jnp.float32)
        return jnp.einsum("bld,d->bl", hidden_BLD, params["score"])

    answer, title = _on(mesh, scores, params), f"reward of {split.name}"
    return over_documents(answer, last_score(pad_id), cfg, split, title)


def _on(
    mesh: Mesh,
    function: Callable[[model.Params, Batch], jax.Array],
    params: model.Params,
) -> Callable[[Batch], np.ndarray]:
    """The function of a batch, compiled, with NumPy numbers `[B, L]` out."""
    whole = sharding.replicated(mesh)
    rows = sharding.split_rows(mesh, micro_batches=False)
    jitted = jax.jit(function, in_shardings=(whole, rows), out_shardings=whole)
    return lambda batch: np.asarray(jitted(params, batch), np.float32)
