"""The value head's targets, and its first stage: trained alone on a frozen trunk.

Axes: B rows, L positions, D width.
"""

from itertools import islice

import torch
from torch import Tensor

from shared import algorithms, weighting
from shared.algorithms import Values
from shared.data.batches import Batch, TrainBatches, micro_batches
from shared.run.stage1 import Stage1
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
def _frozen_hidden(model: WMTP, batch: Batch) -> Tensor:
    return forward(
        model, batch.tokens_BL, batch.positions_BL, batch.document_BL
    ).hidden_BLD


def _read(model: WMTP, batches: list[Batch]) -> list[tuple[Tensor, Tensor]]:
    """What the value head says of each batch, and its fixed returns, on the CPU."""
    pairs = []
    for batch in batches:
        batch = to_device(batch, model.device)
        pair = fixed_returns(model, _frozen_hidden(model, batch), batch)
        pairs.append((pair[0].cpu(), pair[1].cpu()))
    return pairs


def _update(model: WMTP, adam: torch.optim.Optimizer, batches: Batch) -> Tensor:
    """One update of the value head over `[A, B, L]` micro-batches; the value loss."""
    cfg = model.cfg
    adam.zero_grad(set_to_none=True)
    total = count = torch.zeros((), device=model.device)
    for batch in micro_batches(batches):
        hidden_BLD, member_BLS = (
            _frozen_hidden(model, batch),
            algorithms.members_of(batch),
        )
        _, (value_sum, targets) = value_loss(model, hidden_BLD, batch, member_BLS)
        value_sum.backward()
        total, count = total + value_sum.detach(), count + targets
    gradients = [parameter.grad for parameter in model.value_head.parameters()]
    for gradient in gradients:
        gradient.div_(count.clamp(min=1.0))
    norm = torch.nn.utils.get_total_norm(gradients)
    for gradient in gradients:
        gradient.mul_((cfg.optimizer.clip_norm / norm).clamp(max=1.0))
    adam.step()
    return weighting.ratio(total, count)


def train_value_head(
    model: WMTP, train: TrainBatches, validation: list[Batch]
) -> Stage1:
    """Stage 1: only the value head learns; leaves the best one in the model."""
    cfg, head = model.cfg, model.value_head
    adam = torch.optim.Adam(head.parameters(), lr=cfg.critic.stage1_lr)

    def copied() -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in head.state_dict().items()}

    best, stage1 = copied(), Stage1(cfg.critic)
    stage1.measured(_read(model, validation), validation)
    for epoch in stage1:
        for batches in islice(train, train.steps_per_epoch(epoch - 1)):
            loss = _update(model, adam, to_device(batches, model.device))
        if stage1.measured(_read(model, validation), validation, loss):
            best = copied()
    head.load_state_dict(best)
    return stage1
