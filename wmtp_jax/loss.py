"""Scores, weights and loss of one micro-batch.

    trunk -> (head 0's nll, values) -> score_BL -> w_BLK (constants)
          -> heads over the rows that weigh something -> (sum, weight)

Weights come before the heads, so a row of weight 0 is never multiplied with an
unembedding (`unembed.py`).

Axes: B rows, L positions, K heads, D width.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from shared.algorithms import (
    Extremes,
    Known,
    Sums,
    add_up,
    head_weights,
    members_of,
    needs_nll,
    score_tokens,
    weigh,
)
from shared.axes import shift_to_tokens
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.targets import shift_targets, target_mask
from wmtp_jax import critic, heads, model, unembed
from wmtp_jax import pytrees as pytrees


def run_trunk(
    params: model.Params,
    batch: Batch,
    cfg: Config,
    dropout_key: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> model.Outputs:
    """One pass of the trunk over a batch."""
    return model.forward(
        params["trunk"],
        batch.tokens_BL,
        batch.positions_BL,
        batch.document_BL,
        cfg.model,
        cfg.machine,
        dropout_key=dropout_key,
        mesh=mesh,
    )


def targets_of(batch: Batch, cfg: Config) -> tuple[jax.Array, jax.Array]:
    """`(targets_BLK, mask_BLK)`."""
    K = cfg.heads.count
    mask_BLK = target_mask(batch.document_BL, batch.target_BL, num_heads=K)
    return shift_targets(batch.tokens_BL, num_heads=K), mask_BLK


def learnt_targets(
    targets_BLK: jax.Array,
    mask_BLK: jax.Array,
    params: model.Params,
    outputs: model.Outputs,
    cfg: Config,
    mesh: Mesh | None = None,
) -> jax.Array:
    """What heads learn to predict: the data's tokens, or what head 0 would say instead.

    self: target[b,l,k] = argmax_v of head 0's logits at l + k, where the mask is True
    """
    if cfg.heads.target == "data":
        return targets_BLK
    shared_VD, _ = heads.unembeddings(params)
    kept_BL = mask_BLK[:, :, 0]
    own_BL = unembed.best_tokens(outputs.hidden_BLD, kept_BL, shared_VD, mesh=mesh)
    own_BLK = shift_targets(shift_to_tokens(own_BL), num_heads=cfg.heads.count)
    return own_BLK.astype(targets_BLK.dtype)


def run_heads(
    params: model.Params, batch: Batch, cfg: Config, *, mesh: Mesh | None = None
) -> tuple[model.Outputs, jax.Array, jax.Array]:
    """A pass without gradient: `(outputs, nll_BLK, mask_BLK)`, nll 0 off the mask."""
    outputs = run_trunk(params, batch, cfg, mesh=mesh)
    states_KBLD = heads.head_states(params, outputs, cfg, mesh)
    targets_BLK, mask_BLK = targets_of(batch, cfg)
    nll_BLK = unembed.nll_heads(
        states_KBLD, targets_BLK, mask_BLK, *heads.unembeddings(params), mesh=mesh
    )
    return outputs, nll_BLK, mask_BLK


def micro_batch_sums(
    params: model.Params,
    batch: Batch,
    cfg: Config,
    dropout_key: jax.Array | None = None,
    *,
    mesh: Mesh | None = None,
) -> tuple[Sums, Extremes]:
    """Numerators and denominators of one micro-batch.

    `loss_sum` and `value_sum` carry gradients; everything else is for the denominators
    and the log.
    """
    outputs = run_trunk(params, batch, cfg, dropout_key, mesh)
    targets_BLK, mask_BLK = targets_of(batch, cfg)
    member_BLS = members_of(batch)
    values, value = None, (jnp.zeros(()), jnp.zeros(()))
    if cfg.algorithm.value_head:
        hidden_BLD = outputs.hidden_BLD
        if not cfg.critic.trunk_gradient:
            hidden_BLD = jax.lax.stop_gradient(hidden_BLD)
        head = params["value"]
        values, value = critic.value_loss(head, hidden_BLD, batch, member_BLS, cfg)
    unembeddings = heads.unembeddings(params)
    nll_BL = scored = None
    if needs_nll(cfg):
        first = (outputs.hidden_BLD, targets_BLK[:, :, 0], mask_BLK[:, :, 0])
        nll_BL, scored = unembed.score_rows(*first, unembeddings[0], mesh=mesh)
    if cfg.heads.only:
        scored = None  # of rows that need no gradient, or none at all
        targets_BLK = learnt_targets(targets_BLK, mask_BLK, params, outputs, cfg, mesh)
    known = Known(batch=batch, member_BLS=member_BLS, nll_BL=nll_BL, values=values)
    # Weights are constants of the loss: the place where their gradient is stopped.
    w_BLK = weigh(score_tokens(known, cfg), mask_BLK, known, cfg)
    w_BLK = jax.lax.stop_gradient(w_BLK)
    head_weight_K = jnp.asarray(head_weights(cfg), w_BLK.dtype)
    loss_sum, nll_BLK = unembed.weighted_nll_heads(
        heads.head_states(params, outputs, cfg, mesh),
        targets_BLK,
        w_BLK > 0,
        w_BLK * head_weight_K[None, None],
        *unembeddings,
        shared_scale=cfg.heads.trunk_gradient_scale,
        heads_only=cfg.heads.only,
        scored=scored,
        mesh=mesh,
    )
    sums, extremes = add_up(nll_BLK, w_BLK, mask_BLK, value, cfg)
    return replace(sums, loss_sum=loss_sum), extremes
