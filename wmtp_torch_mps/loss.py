"""Scores, weights, loss and gradients of one micro-batch.

    trunk -> (head 0's nll, values) -> score_BL -> w_BLK (constants)
          -> heads over the rows that weigh something, with their gradient -> trunk

Weights come before the heads, so a row of weight 0 is never multiplied with an
unembedding, and no logits outlive their block (`unembed.py`).

Axes: B rows, L positions, K heads, D width, R rows with a weight above 0.
"""

from dataclasses import replace

import torch
from torch import Tensor

from shared.algorithms import (
    Extremes,
    Known,
    Sums,
    Values,
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
from wmtp_torch_mps import critic, unembed
from wmtp_torch_mps.heads import head_states, unembedding_scale, unembeddings
from wmtp_torch_mps.model import WMTP, Outputs, forward, learning
from wmtp_torch_mps.precision import multiplying, rounds_by_hand


def targets_of(batch: Batch, cfg: Config) -> tuple[Tensor, Tensor]:
    """`(targets_BLK, mask_BLK)`."""
    K = cfg.heads.count
    mask_BLK = target_mask(batch.document_BL, batch.target_BL, num_heads=K)
    return shift_targets(batch.tokens_BL, num_heads=K), mask_BLK


def run_trunk(model: WMTP, batch: Batch, *, dropping: bool = False) -> Outputs:
    """One pass of the trunk over a batch."""
    return forward(
        model,
        batch.tokens_BL,
        batch.positions_BL,
        batch.document_BL,
        dropping=dropping,
    )


@torch.no_grad()
def nll_heads(
    model: WMTP,
    states: list[Tensor],
    targets_BLK: Tensor,
    kept_BLK: Tensor,
    factor_BLK: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """`nll_BLK` of the first heads where `kept_BLK`, 0 elsewhere, and gradients.

    Args:
      states: `states_BLD` of as many heads as are wanted, in order.
      factor_BLK: with it, the gradient of `sum(factor * nll)` is added to the
        unembeddings, and returned for each of the states that has one.
    """
    nll, gradients = [], []
    device, name = model.device, model.cfg.machine.dtype
    dtype = torch.float16 if name == "float16" else model.base.dtype
    block = unembed.block_rows(kept_BLK[:, :, 0].numel(), model.cfg.model.vocab_size)
    for k, state_BLD in enumerate(states):
        rows_R = unembed.kept_rows(kept_BLK[:, :, k])
        flat_XD = state_BLD.detach().reshape(-1, state_BLD.shape[-1])
        factor_R = None
        if factor_BLK is not None:
            factor_R = factor_BLK[:, :, k].reshape(-1)[rows_R]
        with multiplying(device, name):
            nll_R, gradient_RD = unembed.nll_rows(
                flat_XD[rows_R].to(dtype),
                unembeddings(model)[k],
                targets_BLK[:, :, k].reshape(-1)[rows_R],
                factor_R,
                block=block,
                scale=unembedding_scale(model, k),
                of_states=state_BLD.requires_grad,
                rounded=rounds_by_hand(device, name),
            )
        nll_X = nll_R.new_zeros(flat_XD.shape[0]).index_copy(0, rows_R, nll_R)
        nll.append(nll_X.reshape(state_BLD.shape[:2]))
        if gradient_RD is not None:
            gradient_XD = torch.zeros_like(flat_XD)
            gradient_XD.index_copy_(0, rows_R, gradient_RD.to(flat_XD.dtype))
            gradients.append(gradient_XD.reshape(state_BLD.shape))
    return torch.stack(nll, dim=2), gradients


@torch.no_grad()
def own_targets(model: WMTP, hidden_BLD: Tensor, mask_BLK: Tensor) -> Tensor:
    """What head 0 would say in place of the data's tokens (`heads.target` self).

    target[b,l,k] = argmax_v of head 0's logits at l + k, where the mask is True.
    """
    device, name = model.device, model.cfg.machine.dtype
    rows_R = unembed.kept_rows(mask_BLK[:, :, 0])
    flat_XD = hidden_BLD.reshape(-1, hidden_BLD.shape[-1])
    dtype = torch.float16 if name == "float16" else model.base.dtype
    block = unembed.block_rows(flat_XD.shape[0], model.cfg.model.vocab_size)
    with multiplying(device, name):
        token_R = unembed.best_tokens(
            flat_XD[rows_R].to(dtype),
            model.unembed_VD,
            block=block,
            rounded=rounds_by_hand(device, name),
        )
    token_X = token_R.new_zeros(flat_XD.shape[0]).index_copy(0, rows_R, token_R)
    own_BL = shift_to_tokens(token_X.reshape(hidden_BLD.shape[:2]))
    return shift_targets(own_BL, num_heads=model.cfg.heads.count)


@torch.no_grad()
def weights_of(
    model: WMTP,
    outputs: Outputs,
    values: Values | None,
    member_BLS: Tensor,
    batch: Batch,
    targets_BLK: Tensor,
    mask_BLK: Tensor,
) -> Tensor:
    """`w_BLK`: constants of the loss, as no gradient is recorded here."""
    cfg, nll_BL = model.cfg, None
    if needs_nll(cfg):
        first = [outputs.hidden_BLD]
        nll_BL = nll_heads(model, first, targets_BLK, mask_BLK)[0][:, :, 0]
    known = Known(batch=batch, member_BLS=member_BLS, nll_BL=nll_BL, values=values)
    return weigh(score_tokens(known, cfg), mask_BLK, known, cfg)


def add_gradients(
    model: WMTP,
    batch: Batch,
    value_gradients: dict[str, Tensor],
    *,
    scale: float = 1.0,
    dropping: bool = False,
) -> tuple[Sums, Extremes]:
    """Numerators and denominators of a micro-batch; gradients are added up.

    The gradient of `loss_sum` is added to each parameter's `grad`, that of `value_sum`
    to `value_gradients` by name, both times `scale`: they are divided by their own
    denominators, which all micro-batches of a step make together.
    """
    cfg = model.cfg
    outputs = run_trunk(model, batch, dropping=dropping)
    targets_BLK, mask_BLK = targets_of(batch, cfg)
    member_BLS = members_of(batch)
    values, value = None, (batch.noise_BL.new_zeros(()),) * 2
    if cfg.algorithm.value_head:
        hidden_BLD = outputs.hidden_BLD
        if not cfg.critic.trunk_gradient:
            hidden_BLD = hidden_BLD.detach()
        values, value = critic.value_loss(model, hidden_BLD, batch, member_BLS)
    w_BLK = weights_of(model, outputs, values, member_BLS, batch, targets_BLK, mask_BLK)
    if cfg.heads.target == "self":
        targets_BLK = own_targets(model, outputs.hidden_BLD, mask_BLK)
    factor_K = torch.tensor(head_weights(cfg), dtype=w_BLK.dtype, device=w_BLK.device)
    states = head_states(model, outputs)
    nll_BLK, gradients = nll_heads(
        model, states, targets_BLK, w_BLK > 0, scale * w_BLK * factor_K
    )
    if values is not None:
        _add_value_gradients(model, value[0] * scale, value_gradients)
    differ = [state for state in states if state.requires_grad]
    with multiplying(model.device, cfg.machine.dtype):
        if differ:  # of a trunk that never learns, heads may have no other gradient
            torch.autograd.backward(differ, gradients)
    sums, extremes = add_up(nll_BLK, w_BLK, mask_BLK, value, cfg)
    return replace(sums, value_sum=sums.value_sum.detach()), extremes


def _add_value_gradients(
    model: WMTP, value_sum: Tensor, value_gradients: dict[str, Tensor]
) -> None:
    """Kept apart from the loss's, which is divided by another number."""
    parameters = learning(model)
    gradients = torch.autograd.grad(
        value_sum, list(parameters.values()), retain_graph=True, allow_unused=True
    )
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None and name in value_gradients:
            value_gradients[name] += gradient
        elif gradient is not None:
            value_gradients[name] = gradient
