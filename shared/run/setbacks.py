"""What goes wrong in the steps of a run: counted, told, and undone past a limit.

    a step not finite      no update; step and data go on, it counts as skipped
    more than max_skipped  in a row: back to the newest checkpoint before the first of
                           them, and on with the data behind the last of them
    more than max_roll_backs of those: the run ends, its checkpoints are whole
    a spike in the norm    is told (`shared/run/spikes.py`)
    a state that is lost   back to the newest checkpoint, and on with its data

The same steps over the same data would come to the same numbers, so a roll-back passes
over all data since the checkpoint: what was skipped, and what led there. All of this is
a function of what a checkpoint holds: a run that is killed and goes on does the same.
"""

import logging
from collections.abc import Sequence
from typing import Any

from shared.data.batches import Batch, TrainBatches
from shared.run.finite import StepRead
from shared.run.open_run import Run
from shared.run.spikes import spike_over, total_norm
from shared.state.checkpoints import Progressed, steps_in

log = logging.getLogger("wmtp")
MOST_IDS = 100  # of one line


def named_ids(ids: Sequence[str]) -> str:
    """The ids of a batch's examples in words."""
    more = f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
    return f"examples {', '.join(ids[:MOST_IDS])}{more}"


class Setbacks:
    """Judges the steps of a run as they are read.

    Args:
      run: whose checkpoints and limits they are.
      done: kept up to date.
      train: whose batches have the ids that are told.
    """

    def __init__(self, run: Run, done: Progressed, train: TrainBatches) -> None:
        self.run, self.plan, self.done, self.train = run, run.cfg.train, done, train
        self.goes_back_to: int | None = None  # step of the checkpoint to restore
        self._beyond: dict[str, int] | None = None  # when, and where the data goes on
        self._places: dict[int, dict[str, int]] = {}  # of the newest steps in the data

    def next_batch(self, number: int) -> Batch:
        """The batch of a step; where it lies in the data is known until it is read."""
        self._places.pop(number - 2, None)
        self._places[number] = self.train.state()
        batch = next(self.train)
        self._places[number + 1] = self.train.state()
        return batch

    def take(self, number: int, read: StepRead) -> dict[str, float]:
        """Judges a step; returns what its row says of all steps up to it.

        Raises:
          FloatingPointError: if updates are skipped again and again, or there is no
            checkpoint to go back to.
        """
        done = self.done
        self._look_for_spike(number, read.metrics)
        done.skipped_updates += read.skipped
        if read.fault:
            done.skipped_in_a_row += 1
            self._skipped(number, f"{read.fault}; {self._examples(number)}")
        elif not read.skipped:  # an overflow of float16 is none of a row, nor its end
            done.skipped_in_a_row = 0
        if rows := int(read.metrics.get("micro_batch_rows", 0)):
            done.micro_batch_splits = self.run.cfg.data.batch_size // rows
        counts = {
            "skipped_updates": done.skipped_updates,
            "grad_spikes": done.grad_spikes,
        }
        return {name: n for name, n in counts.items() if n}

    def lost(self, number: int) -> None:
        """Has the run go back, past no data, as a step has left no state."""
        if self.goes_back_to is None:
            self.goes_back_to = max(steps_in(self.run.path / "checkpoints"))
            said = "step %d has left no state behind: back to step %d"
            log.warning(said, number, self.goes_back_to)

    def gone_back(self, step: int, position: dict[str, Any]) -> None:
        """Makes progress and data those of a checkpoint, but for what led back to it.

        Args:
          step: of the checkpoint.
          position: what it holds beside arrays.
        """
        done, saved = self.done, Progressed(**position)
        roll_backs, passed = done.roll_backs, done.passed_over
        splits = max(done.micro_batch_splits, saved.micro_batch_splits)
        if self._beyond is not None:
            start = {f"from_{name}": x for name, x in saved.data.items()}
            left_out = {"back_to": step, **start, **self._beyond}
            roll_backs, passed = roll_backs + 1, [*passed, left_out]
        vars(done).update(vars(saved))
        done.roll_backs, done.passed_over = roll_backs, passed
        done.micro_batch_splits = splits
        if len(passed) > len(saved.passed_over):  # nothing has been saved since
            newest = passed[-1]
            done.data = {"epoch": newest["to_epoch"], "step": newest["to_step"]}
        self.train.restore(done.data)
        self._places.clear()
        self.goes_back_to = self._beyond = None

    def _skipped(self, number: int, told: str) -> None:
        log.warning("no update is made: %s", told)
        done, plan, in_a_row = self.done, self.plan, self.done.skipped_in_a_row
        if in_a_row <= plan.max_skipped:
            return
        steps = steps_in(self.run.path / "checkpoints")
        before = [x for x in steps if x <= number - in_a_row] or steps[:1]
        if before and done.roll_backs < plan.max_roll_backs:
            end = {f"to_{name}": x for name, x in self._places[number + 1].items()}
            self.goes_back_to, self._beyond = before[-1], {"at_step": number, **end}
            log.warning(
                "%d updates in a row were skipped: back to step %d, and on behind the "
                "data since",
                in_a_row,
                before[-1],
            )
            return
        kept = f"the checkpoint of step {before[-1]}" if before else "no checkpoint"
        raise FloatingPointError(
            f"{in_a_row} updates in a row were skipped, more than train.max_skipped = "
            f"{plan.max_skipped}, after {done.roll_backs} of train.max_roll_backs = "
            f"{plan.max_roll_backs} roll-backs: {told} ({kept} is kept)"
        )

    def _look_for_spike(self, number: int, metrics: dict[str, float]) -> None:
        norm = total_norm(metrics)
        middle = None if norm is None else spike_over(norm, self.done)
        if middle is not None:
            log.warning(
                "the gradient of step %d has norm %.3g, the median before it is %.3g; "
                "%s",
                number,
                norm,
                middle,
                self._examples(number),
            )

    def _examples(self, number: int) -> str:
        return named_ids(self.train.ids_at(self._places[number]))
