"""Stage 1 of the critic, for either backend: the value head learns alone.

The trunk is frozen; it ends when the error on validation stops falling, measured
against returns with gae_lambda 1, which do not move.

    stage1 = Stage1(cfg.critic)
    stage1.measured(pairs, validation)                    # the head as it came
    for epoch in stage1:
        for batches in islice(train, train.steps_per_epoch(epoch - 1)):
            head, value_loss = update(head, batches)
        if stage1.measured(pairs, validation, value_loss):
            best = head
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from shared.config.fields import CriticConfig
from shared.data.batches import Batch
from shared.run.finite import require_finite_epoch
from shared.run.report import warn_if_useless
from shared.run.validation import value_errors
from shared.tracking.console import Progress

log = logging.getLogger("wmtp")


class Stage1:
    """Epochs until the validation error stops falling.

    Attributes:
      epoch: made so far; 0 is the head as it came.
      best_epoch: whose head is to be kept.
      value_error: mean squared error against the fixed returns on validation, of the
        best epoch.
      explained_variance: of the same.
    """

    def __init__(self, cfg: CriticConfig) -> None:
        self.cfg = cfg
        self.epoch = self.best_epoch = 0
        self.value_error = float("inf")
        self.explained_variance = 0.0
        self._told: dict[str, float] = {}

    def __iter__(self) -> Iterator[int]:
        """Numbers of the epochs, from 1; says at the end how good the values are."""
        cfg, epochs = self.cfg, self.cfg.stage1_epochs
        with Progress(epochs, "value head", unit="epoch", every=5) as progress:
            while self.epoch < epochs:
                self.epoch += 1
                yield self.epoch
                progress.update(self.epoch, **self._told)
                if self.epoch - self.best_epoch >= cfg.stage1_patience:
                    break
        log.info(
            "value head: best of %d epochs is %d, explained variance on validation "
            "%.4f",
            self.epoch,
            self.best_epoch,
            self.explained_variance,
        )
        warn_if_useless(self.explained_variance)

    def measured(
        self,
        pairs: Sequence[tuple[Any, Any]],
        validation: list[Batch],
        value_loss: Any = 0.0,
    ) -> bool:
        """Whether the head is the best so far.

        Args:
          pairs: `(value_BL, return_BL)` of each batch of validation, the returns fixed.
          value_loss: of the epoch's last step, to be shown.
        """
        error, explained = value_errors(pairs, validation)
        self._told = {
            "value_loss": float(value_loss),
            "value_error": error,
            "explained_variance": explained,
        }
        require_finite_epoch(self._told, self.epoch)
        best = self.epoch == 0 or error < self.value_error - self.cfg.stage1_min_delta
        if best:
            self.best_epoch = self.epoch
            self.value_error, self.explained_variance = error, explained
        return best

    def summary(self) -> dict[str, float]:
        """What `summary.json` holds of it."""
        return {
            "epochs": self.epoch,
            "best_epoch": self.best_epoch,
            "value_error": self.value_error,
            "explained_variance": self.explained_variance,
        }
