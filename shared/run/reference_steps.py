"""The steps of a reference that is trained first: progress, when to save, when to stop.

    with ReferenceSteps(cfg, train, start, num_steps) as steps:
        for number, batches in steps:
            state, metrics = step(state, batches)
            steps.log(read_reference_step(number, metrics, cfg, tensors))
            if kept and steps.saves(number):
                save(number, state, steps.position(), steps.keep)

Its newest checkpoint stays until every pass of it is in the cache: a run that is
stopped before trains none of it twice.
"""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from shared.config.fields import Config
from shared.data.batches import Batch, TrainBatches
from shared.run.peers import ALONE, Peers
from shared.run.stops import Stopped, polite
from shared.state.checkpoints import Progressed, clear_unfinished
from shared.tracking.console import Progress

log = logging.getLogger("wmtp")
State = TypeVar("State")


def begun_reference(
    kept: Path,
    read: Callable[[], tuple[int, State, dict[str, Any]] | None],
    train: TrainBatches,
) -> tuple[int, State | None]:
    """`(step, state)` of a reference that was begun, `(0, None)` of none.

    `train` is put where it was.
    """
    clear_unfinished(kept / "checkpoints")
    try:
        found = read()
    except ValueError:  # every checkpoint of it is damaged, which was said
        shutil.rmtree(kept, ignore_errors=True)
        found = None
    if found is None:
        return 0, None
    step, state, position = found
    train.restore(position["data"])
    log.info("reference: going on from its step %d", step)
    return step, state


class ReferenceSteps:
    """Iterates over `(number, batches)` of the steps that are left.

    Args:
      cfg: of the reference.
      train: its batches.
      start: steps made so far.
      num_steps: of all.
      peers: the processes that train it.

    Raises:
      Stopped: if a signal has come; what there is has been saved by then.
    """

    def __init__(
        self,
        cfg: Config,
        train: TrainBatches,
        start: int,
        num_steps: int,
        peers: Peers = ALONE,
    ) -> None:
        self._peers, self._stopping = peers, 0
        self._every, self.train = cfg.train.save_every, train
        self.start, self.num_steps = start, num_steps
        self.keep = replace(cfg.train, keep_checkpoints=1, keep_best=False, patience=0)

    def __enter__(self) -> "ReferenceSteps":
        with ExitStack() as opened:
            self._stop = opened.enter_context(polite())
            progress = Progress(self.num_steps, "reference", start=self.start, every=20)
            self._progress = opened.enter_context(progress)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._opened.__exit__(*raised)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for number in range(self.start + 1, self.num_steps + 1):
            self._number = number
            yield number, next(self.train)
            if self._stopping:
                log.warning("reference: stopped at its step %d", number)
                raise Stopped(self._stopping)

    def log(self, told: dict[str, float]) -> None:
        """Shows what a step has measured; asks all processes whether to go on."""
        self._stopping = self._peers.ask(self._stop.told)()
        self._progress.update(self._number, **told)

    def saves(self, number: int) -> bool:
        """Whether a checkpoint is written after this step."""
        due = number % self._every == 0 or number == self.num_steps
        return due or bool(self._stopping)

    def position(self) -> dict[str, Any]:
        """What a checkpoint holds beside arrays, as JSON."""
        return asdict(Progressed(self.train.state()))
