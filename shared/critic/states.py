"""What a frozen trunk says where values are read from: asked once, kept on disk.

    for batch in states:
        states.keep(hidden_BLD)          # of the trunk, for that batch
    states.state_ND, states.return_N     # N positions, in the order of the rows

The returns do not move (gae_lambda 1): they are the discounted rewards after a
position, whatever the values are. States are written as they come and read back where
they are used, so that neither the disk nor the memory holds more than it is told to.

Axes: B rows, L positions, N positions that values are read from, D width.
"""

import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from shared import algorithms, weighting
from shared.config.fields import Config
from shared.data.batches import Batch, Columns
from shared.data.documents import Split
from shared.data.packing import epoch_order, pack_tightly
from shared.files import cannot_write
from shared.signals.passes import rows_batch
from shared.tracking.console import Progress

log = logging.getLogger("wmtp")


class States:
    """The states and returns of one split.

    Args:
      file: where the states are written.
      columns: signals of the split that rewards are made of.
      most: positions at most; a random part of the documents is asked about where the
        split has more.

    Attributes:
      return_N: float32; empty until the pass is at its end.
    """

    def __init__(
        self, file: Path, split: Split, columns: Columns, cfg: Config, most: int
    ) -> None:
        self.file, self.cfg = file, cfg
        self.split, self.columns = _at_most(most, split, columns, cfg.seed)
        self.return_N = np.zeros(0, np.float32)
        self._answers: deque[Any] = deque()
        self._returns: list[np.ndarray] = []

    def __iter__(self) -> Iterator[Batch]:
        """Rows `[B, L]` of the shape of training, to be answered in turn by `keep`.

        Raises:
          ValueError: if a state is not finite, or the file cannot be written.
        """
        B, L = self.cfg.data.batch_size, self.cfg.data.max_length
        rows = pack_tightly([len(d.tokens) for d in self.split.documents], L)
        starts, title = range(0, len(rows), B), f"states of {self.split.name}"
        waiting: deque[Batch] = deque()
        try:
            with (
                open(self.file, "wb") as out,
                Progress(len(starts), title, every=20, unit="batch") as bar,
            ):
                for number, start in enumerate(starts, 1):
                    few = rows[start : start + B]
                    waiting.append(rows_batch(few, self.split, self.columns, self.cfg))
                    yield waiting[-1]
                    if len(waiting) == 2:  # the next is computed while this is written
                        self._take(waiting.popleft(), out)
                    bar.update(number)
                while waiting:
                    self._take(waiting.popleft(), out)
        except OSError as error:
            required = (
                "the critic's states (critic.stage1_disk_mib bounds them) must be in a "
                "folder that can be written"
            )
            raise cannot_write(required, self.file, error) from None
        self.return_N = np.concatenate(self._returns)

    def keep(self, hidden_BLD: Any) -> None:
        """Takes the trunk's states of a batch; they may still be being computed."""
        self._answers.append(hidden_BLD)

    @property
    def state_ND(self) -> np.ndarray:
        """Float32, read from the disk where it is looked at."""
        shape = (len(self.return_N), self.cfg.model.width)
        return np.memmap(self.file, np.float32, "r", shape=shape)

    def _take(self, batch: Batch, out: BinaryIO) -> None:
        read_BL = weighting.read_positions(batch.target_BL)
        state_ND = np.asarray(self._answers.popleft(), np.float32)[read_BL]
        if not np.isfinite(state_ND).all():
            raise ValueError(
                f"the trunk's states must be finite, got others in {self.split.name} "
                "(has the model that the run starts from diverged?)"
            )
        out.write(state_ND.tobytes())
        self._returns.append(_fixed_returns(batch, self.cfg)[read_BL])


def _fixed_returns(batch: Batch, cfg: Config) -> np.ndarray:
    value_BL, member_BLS = np.zeros_like(batch.noise_BL), algorithms.members_of(batch)
    values = algorithms.value_targets(value_BL, batch, member_BLS, cfg, gae_lambda=1.0)
    return values.return_BL


def _at_most(
    most: int, split: Split, columns: Columns, seed: int
) -> tuple[Split, Columns]:
    """As many documents in random order as stay within `most` positions."""
    count = np.array([int(d.target.sum()) for d in split.documents])
    if count.sum() <= most:
        return split, columns
    order = epoch_order(len(count), seed, 0)
    order = order[count[order] <= most]
    chosen = np.sort(order[np.cumsum(count[order]) <= most]).tolist()
    if not count[chosen].any():
        least = int(count[count > 0].min())
        raise ValueError(
            f"critic.stage1_disk_mib must hold the states of a document of {split.name}"
            f", {least} positions at least, got room for {most}"
        )
    log.info(
        "%s: the value head learns from %d of %d documents (critic.stage1_disk_mib)",
        split.name,
        len(chosen),
        len(count),
    )
    some = replace(split, documents=tuple(split.documents[i] for i in chosen))
    return some, {name: [x[i] for i in chosen] for name, x in columns.items()}
