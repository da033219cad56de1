"""Stage 1 of the critic, for either backend: the value head learns alone.

The trunk is frozen, so it is asked once, and the head learns from what it said: from
the best linear critic in closed form on, until the error on validation stops falling.
Both are measured against returns with gae_lambda 1, which do not move.

    with Stage1(run, signals) as stage1:
        for batch in stage1.batches():
            stage1.keep(hidden_BLD)
        start = stage1.start()
        stage1.measured(values of start)
        best = head = head if stage1.measured(values of head) else start
        for epoch in stage1.epochs():
            for states_MD, return_M, counts_M in stage1.rows(epoch):
                head, value_loss = update(head, states_MD, return_M, counts_M)
            if stage1.measured(values of head, value_loss):
                best = head

Axes: N positions that values are read from, M of them in one update, D width.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from shared.critic.linear_fit import fit_linear, start_head
from shared.critic.states import States
from shared.data.batches import Batch
from shared.data.packing import epoch_order
from shared.run.finite import require_finite_epoch
from shared.run.open_run import Run
from shared.run.report import warn_if_useless
from shared.run.validation import value_errors
from shared.signals.kept import Signals
from shared.tracking.console import Progress

log = logging.getLogger("wmtp")
ROWS = 1024  # of one update, whatever the batches of the run are
# Adam's: at the linear fit some gradients are 0 but for rounding, of which a smaller
# number would make whole steps, other ones in each backend.
EPSILON = 1e-5
FOR_TRAINING = 0.8  # of the disk that states may take; the rest is for validation


class Stage1:
    """The frozen states, and epochs over them until the validation error stops falling.

    Args:
      run: in whose folder the states lie while it lasts.
      signals: of train and validation, which rewards are made of.
      devices: rows of an update are split evenly over so many.

    Attributes:
      epoch: made so far; at 0 a head is the linear fit, or as it came.
      best_epoch: whose head is to be kept.
      value_error: mean squared error against the fixed returns on validation, of the
        best head.
      explained_variance: of the same.
      linear_variance: what the linear fit explains.
    """

    def __init__(self, run: Run, signals: Signals, *, devices: int = 1) -> None:
        own = "" if run.peers.is_first else f"-{run.peers.index}"
        self.cfg, self.folder = run.cfg, run.path / f"stage1{own}"
        cfg, splits = run.cfg, run.inputs.splits
        self.rows_of_update = -(-ROWS // devices) * devices
        most = cfg.critic.stage1_disk_mib * 2**20 // (4 * cfg.model.width)
        room = {"train": int(FOR_TRAINING * most)}
        room["validation"] = most - room["train"]
        self._states = {
            name: States(
                self.folder / f"{name}.f32",
                splits[name],
                signals.of(name, cfg.algorithm.signals),
                cfg,
                room[name],
            )
            for name in room
        }
        self._asked = self._states["train"]
        self.epoch = self.best_epoch = 0
        self.value_error = float("inf")
        self.explained_variance = self.linear_variance = 0.0
        self._told: dict[str, float] = {}

    def __enter__(self) -> "Stage1":
        shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was killed
        self.folder.mkdir()
        return self

    def __exit__(self, *raised: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def batches(self) -> Iterator[Batch]:
        """Rows `[B, L]` of both splits, whose states `keep` wants in turn."""
        for states in self._states.values():
            self._asked = states
            yield from states

    def keep(self, hidden_BLD: Any) -> None:
        """Takes the trunk's states of a batch; they may still be being computed."""
        self._asked.keep(hidden_BLD)

    def start(self) -> dict[str, np.ndarray]:
        """The best linear critic as a value head (`linear_fit.start_head`)."""
        fit = fit_linear(self._states["train"], self._states["validation"])
        self.linear_variance = fit.explained_variance
        log.info(
            "value head: a linear fit explains %.4f of the returns' variance on "
            "validation",
            fit.explained_variance,
        )
        return start_head(fit, self.cfg.seed)

    def epochs(self) -> Iterator[int]:
        """Numbers of the epochs, from 1; says at the end how good the values are."""
        critic, most = self.cfg.critic, self.cfg.critic.stage1_epochs
        with Progress(most, "value head", unit="epoch", every=5) as progress:
            while self.epoch < most:
                self.epoch += 1
                yield self.epoch
                progress.update(self.epoch, **self._told)
                if self.epoch - self.best_epoch >= critic.stage1_patience:
                    break
        best = f"epoch {self.best_epoch}" if self.best_epoch else "the start"
        log.info(
            "value head: of %d epochs %s is the best, explained variance on validation "
            "%.4f",
            self.epoch,
            best,
            self.explained_variance,
        )
        warn_if_useless(self.explained_variance)

    def rows(self, epoch: int) -> Iterator[tuple[np.ndarray, ...]]:
        """`(state_MD, return_M, counts_M)` of each update of an epoch, in random order.

        Rows that do not count fill the last one up.
        """
        state_ND, return_N = (
            self._states["train"].state_ND,
            self._states["train"].return_N,
        )
        order = epoch_order(len(return_N), self.cfg.seed, epoch)
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            yield (
                *self._filled(state_ND[chosen], return_N[chosen]),
                np.arange(self.rows_of_update) < len(chosen),
            )

    def validation(self) -> Iterator[np.ndarray]:
        """`state_MD` of the validation split, whose values `measured` wants."""
        state_ND = self._states["validation"].state_ND
        for start in range(0, len(state_ND), ROWS):
            yield self._filled(state_ND[start : start + ROWS])[0]

    def measured(self, values: Sequence[Any], value_loss: Any = 0.0) -> bool:
        """Whether the head is the best so far.

        Args:
          values: `value_M` of every one of `validation`.
          value_loss: of the epoch's last step, to be shown.

        Raises:
          FloatingPointError: if the head has diverged.
        """
        return_N = self._states["validation"].return_N
        value_N = np.concatenate([np.asarray(x)[:ROWS] for x in values])[
            : len(return_N)
        ]
        error, explained = value_errors(value_N, return_N)
        self._told = {
            "value_loss": float(value_loss),
            "value_error": error,
            "explained_variance": explained,
        }
        require_finite_epoch(self._told, self.epoch)
        best = error < self.value_error - self.cfg.critic.stage1_min_delta
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
            "linear_explained_variance": self.linear_variance,
        }

    def _filled(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Arrays of at most `ROWS` rows, zeros below: one shape, compiled once."""
        room = self.rows_of_update
        return [
            np.pad(x, [(0, room - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in arrays
        ]
