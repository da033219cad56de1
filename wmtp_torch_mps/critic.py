"""The value head's targets, and its first stage: trained alone on a frozen trunk.

Axes: B rows, L positions, M rows of an update in stage 1, D width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared import algorithms, weighting
from shared.algorithms import Values
from shared.critic.stage1 import EPSILON, Stage1
from shared.data.batches import Batch
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.model import WMTP, forward


def value_loss(
    model: WMTP, hidden_BLD: Tensor, batch: Batch, member_BLS: Tensor
) -> tuple[Values, tuple[Tensor, Tensor]]:
    """What the values should have been; sum (with gradients) and count of the loss.

    No gradient flows through what they should have been.
    """
    cfg, value_BL = model.cfg, model.value_head(hidden_BLD)
    fixed_BL, gae_lambda = value_BL.detach(), cfg.critic.gae_lambda
    values = algorithms.value_targets(
        fixed_BL, batch, member_BLS, cfg, gae_lambda=gae_lambda
    )
    return values, weighting.value_loss(value_BL, values.return_BL, batch.target_BL)


@torch.no_grad()
def fixed_returns(
    model: WMTP, hidden_BLD: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    """`(value_BL, return_BL)`, with returns that do not move (gae_lambda 1)."""
    value_BL = model.value_head(hidden_BLD)
    member_BLS = algorithms.members_of(batch)
    values = algorithms.value_targets(
        value_BL, batch, member_BLS, model.cfg, gae_lambda=1.0
    )
    return value_BL, values.return_BL


@torch.no_grad()
def _frozen_hidden(model: WMTP, batch: Batch) -> np.ndarray:
    batch = to_device(batch, model.device)
    outputs = forward(model, batch.tokens_BL, batch.positions_BL, batch.document_BL)
    return outputs.hidden_BLD.float().cpu().numpy()


def _update(
    model: WMTP, adam: torch.optim.Optimizer, rows: tuple[np.ndarray, ...]
) -> Tensor:
    """One update of the value head over rows `[M, D]`; the value loss."""
    state_MD, return_M, counts_M = (torch.from_numpy(x).to(model.device) for x in rows)
    adam.zero_grad(set_to_none=True)
    value_M = model.value_head(state_MD)
    loss = weighting.ratio(*weighting.squared_errors(value_M, return_M, counts_M))
    loss.backward()
    trained = [p for group in adam.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, model.cfg.optimizer.clip_norm)
    adam.step()
    return loss.detach()


def train_value_head(model: WMTP, stage1: Stage1) -> None:
    """Stage 1: only the value head learns; leaves the best one in the model."""
    cfg, head = model.cfg, model.value_head
    for batch in stage1.batches():
        stage1.keep(_frozen_hidden(model, batch))

    @torch.no_grad()
    def is_best(loss: Any = 0.0) -> bool:
        found = [
            head(torch.from_numpy(state_MD).to(model.device)).cpu()
            for state_MD in stage1.validation()
        ]
        return stage1.measured(found, loss)

    def copied() -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in head.state_dict().items()}

    given = copied()
    head.start(stage1.start())
    is_best()
    best = copied()
    head.load_state_dict(given)
    if is_best():  # a folder's may be the better one
        best = given
    head.load_state_dict(best)
    trained = [*head.inner.parameters(), *head.outer.parameters()]
    adam = torch.optim.Adam(trained, lr=cfg.critic.stage1_lr, eps=EPSILON)
    for epoch in stage1.epochs():
        for rows in stage1.rows(epoch):
            loss = _update(model, adam, rows)
        if is_best(loss):
            best = copied()
    head.load_state_dict(best)
