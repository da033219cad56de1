"""Stage 1 of the critic, for either backend: the value head learns alone.

The trunk is frozen; it ends when the error on validation stops falling, measured
against returns with gae_lambda 1, which do not move.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared import weighting
from shared.config.fields import CriticConfig
from shared.data.batches import Batch, TrainBatches
from shared.tracking.console import Progress


@dataclass(frozen=True)
class Stage1:
    """What the first stage leaves: the best value head and how it was found.

    Attributes:
      head: as the backend keeps it.
      value_error: mean squared error against the fixed returns on validation, of the
        best epoch.
    """

    head: Any
    epochs: int
    best_epoch: int
    value_error: float
    explained_variance: float

    def summary(self) -> dict[str, float]:
        """What `summary.json` holds of it."""
        return {
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "value_error": self.value_error,
            "explained_variance": self.explained_variance,
        }


def fit_value_head(
    state: Any,
    update: Callable[[Any, Batch], tuple[Any, Any]],
    read: Callable[[Any, Batch], tuple[Any, Any]],
    head_of: Callable[[Any], Any],
    cfg: CriticConfig,
    train: TrainBatches,
    validation: list[Batch],
) -> Stage1:
    """Trains until the validation error stops falling; keeps the best epoch's head.

    Args:
      state: head and optimizer, as the backend keeps them.
      update: `(state, batches [A, B, L])` -> new state and the value loss.
      read: `(state, batch [B, L])` -> `(value_BL, return_BL)`, the returns fixed.
      head_of: a state's head, which later updates leave as it is.

    Epoch 0 is the head as it came.
    """
    error, explained = _measure(state, validation, read)
    best = Stage1(head_of(state), 0, 0, error, explained)
    epoch = 0
    with Progress(cfg.stage1_epochs, "value head", unit="epoch", every=5) as progress:
        for epoch in range(1, cfg.stage1_epochs + 1):
            for _ in range(train.steps_per_epoch(epoch - 1)):
                state, value_loss = update(state, next(train))
            error, explained = _measure(state, validation, read)
            progress.update(
                epoch,
                value_loss=float(value_loss),
                value_error=error,
                explained_variance=explained,
            )
            if error < best.value_error - cfg.stage1_min_delta:
                best = Stage1(head_of(state), epoch, epoch, error, explained)
            elif epoch - best.best_epoch >= cfg.stage1_patience:
                break
    return Stage1(
        best.head, epoch, best.best_epoch, best.value_error, best.explained_variance
    )


def _measure(
    state: Any, batches: list[Batch], read: Callable[[Any, Batch], tuple[Any, Any]]
) -> tuple[float, float]:
    """Mean squared error and explained variance of the values over `batches`."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in batches:
        value_BL, return_BL = (np.asarray(x) for x in read(state, batch))
        read_BL = weighting.read_positions(batch.target_BL)
        parts.append((value_BL[read_BL], return_BL[read_BL]))
    value_N = np.concatenate([part[0] for part in parts]).astype(np.float64)
    return_N = np.concatenate([part[1] for part in parts]).astype(np.float64)
    explained = weighting.explained_variance(
        return_N, value_N, np.ones(value_N.shape, bool)
    )
    return float(np.mean((value_N - return_N) ** 2)), float(explained)
