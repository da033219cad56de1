"""The value head's targets, and its first stage: trained alone on a frozen trunk.

Axes: B rows, L positions, D width.
"""

from typing import Any

import torch
from torch import Tensor

from shared import algorithms as scores
from shared import weighting
from shared.config.fields import Config
from shared.data.batches import Batch, TrainBatches, micro_batches
from shared.run.stage1 import Stage1, fit_value_head
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.model import WMTP, forward


def value_targets(
    value_BL: Tensor, batch: Batch, cfg: Config, *, gae_lambda: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`scores.value_targets`; no gradient flows through them."""
    return scores.value_targets(value_BL.detach(), batch, cfg, gae_lambda=gae_lambda)


@torch.no_grad()
def _frozen_hidden(model: WMTP, batch: Batch) -> Tensor:
    return forward(
        model, batch.tokens_BL, batch.positions_BL, batch.document_BL
    ).hidden_BLD


@torch.no_grad()
def frozen_values(model: WMTP, batch: Batch) -> tuple[Tensor, Tensor]:
    """`(value_BL, return_BL)` on a frozen trunk, with returns that do not move."""
    value_BL = model.value_head(_frozen_hidden(model, batch))
    _, _, return_BL = value_targets(value_BL, batch, model.cfg, gae_lambda=1.0)
    return value_BL.cpu(), return_BL.cpu()


def _update(model: WMTP, adam: torch.optim.Optimizer, batches: Batch) -> Tensor:
    """One update of the value head over `[A, B, L]` micro-batches; the value loss."""
    cfg = model.cfg
    adam.zero_grad(set_to_none=True)
    total = count = torch.zeros((), device=model.device)
    for batch in micro_batches(batches):
        value_BL = model.value_head(_frozen_hidden(model, batch))
        _, _, return_BL = value_targets(
            value_BL, batch, cfg, gae_lambda=cfg.critic.gae_lambda
        )
        value_sum, targets = weighting.value_loss(value_BL, return_BL, batch.target_BL)
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
    """Stage 1 (`shared/run/stage1.py`); leaves the best head in the model."""
    cfg, head = model.cfg, model.value_head
    adam = torch.optim.Adam(head.parameters(), lr=cfg.critic.stage1_lr)

    def update(state: Any, batches: Batch) -> tuple[Any, Tensor]:
        return state, _update(model, adam, to_device(batches, model.device))

    def copied(state: Any) -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in head.state_dict().items()}

    def read(state: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        return frozen_values(model, to_device(batch, model.device))

    stage1 = fit_value_head(None, update, read, copied, cfg.critic, train, validation)
    head.load_state_dict(stage1.head)
    return stage1
