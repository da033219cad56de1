"""Scores, weights and loss of one micro-batch.

    trunk -> nll_BLK (and values) -> score_BL -> w_BLK (constants) -> (sum, weight)

Axes: B rows, L positions, K heads, D width.
"""

import jax
import jax.numpy as jnp

from shared import weighting
from shared.batches import Batch
from shared.config import Config
from shared.scores import Extremes, Sums, add_up, score_tokens, weigh
from shared.targets import shift_targets, target_mask
from wmtp_jax import critic, heads, model, unembed

jax.tree_util.register_dataclass(
    Batch,
    data_fields=[
        name for name in Batch.__dataclass_fields__ if name != "num_documents"
    ],
    meta_fields=["num_documents"],
)


jax.tree_util.register_dataclass(Sums)
jax.tree_util.register_dataclass(Extremes)


def run_heads(
    params: model.Params,
    batch: Batch,
    cfg: Config,
    dropout_key: jax.Array | None = None,
) -> tuple[model.Outputs, jax.Array, jax.Array]:
    """One pass of trunk and heads: `(outputs, nll_BLK, mask_BLK)`."""
    outputs = model.forward(
        params["trunk"],
        batch.tokens_BL,
        batch.positions_BL,
        batch.document_BL,
        cfg.model,
        cfg.machine,
        dropout_key=dropout_key,
    )
    states_KBLD = heads.head_states(params, outputs, cfg)
    targets_BLK = shift_targets(batch.tokens_BL, num_heads=cfg.heads.count)
    mask_BLK = target_mask(
        batch.document_BL, batch.target_BL, num_heads=cfg.heads.count
    )
    nll_BLK = unembed.nll_heads(states_KBLD, targets_BLK, *heads.unembeddings(params))
    return outputs, nll_BLK, mask_BLK


def micro_batch_sums(
    params: model.Params,
    batch: Batch,
    cfg: Config,
    dropout_key: jax.Array | None = None,
) -> tuple[Sums, Extremes]:
    """Numerators and denominators of one micro-batch.

    `loss_sum` and `value_sum` carry gradients; everything else is for the denominators
    and the log.
    """
    outputs, nll_BLK, mask_BLK = run_heads(params, batch, cfg, dropout_key)
    value_BL, value = None, (jnp.zeros(()), jnp.zeros(()))
    if cfg.algo == "critic":
        hidden_BLD = outputs.hidden_BLD
        if not cfg.critic.trunk_gradient:
            hidden_BLD = jax.lax.stop_gradient(hidden_BLD)
        value_BL = critic.read_values(params["value"], hidden_BLD)
        _, _, return_BL = critic.value_targets(
            value_BL, batch, cfg, gae_lambda=cfg.critic.gae_lambda
        )
        value = weighting.value_loss(value_BL, return_BL, batch.target_BL)
    score_BL = score_tokens(nll_BLK[:, :, 0], value_BL, batch, cfg)
    # Weights are constants of the loss: the one place where their gradient is stopped.
    w_BLK = jax.lax.stop_gradient(weigh(score_BL, mask_BLK, batch, cfg))
    return add_up(nll_BLK, w_BLK, mask_BLK, value, cfg)
