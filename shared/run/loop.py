"""What goes on around the steps of a run: order, progress, metrics, when to save, stop.

    with Loop(run, done, start, num_steps, train, validation, ...) as loop:
        for number, batches in loop:
            state, metrics = step(state, batches)
            loop.log(number, metrics, batches)
            if loop.goes_back_to is not None:
                state, position = restore(loop.goes_back_to)
                loop.gone_back(step, position)
                continue
            if loop.evaluates(number):
                results = [eval_step(state.params, b) for b in validation]
                loop.evaluated(number, results, tasks(number, state.params))
            elif loop.saves(number):
                loop.probed(number, eval_step(state.params, validation[0]))
            if loop.saves(number):
                save(number, state, loop.position())

Metrics of step n are read after step n + 1 has been dispatched (where steps are
asynchronous), so that the device never waits for the host.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from shared.config.fields import Config
from shared.data.batches import Batch, TrainBatches
from shared.run.finite import read_step
from shared.run.freed_memory import give_freed_memory_back, keep_freed_memory
from shared.run.open_run import Run
from shared.run.setbacks import Setbacks
from shared.run.stops import Stopped, polite
from shared.run.validation import (
    eval_metrics,
    is_reference,
    require_finite_eval,
    validation_nll,
)
from shared.state.checkpoints import Progressed, best_kept
from shared.tracking.console import Progress
from shared.tracking.flops import throughput
from shared.tracking.tracking import open_trackers

log = logging.getLogger("wmtp")


class Loop:
    """Iterates over `(number, batches)` of the steps that are left.

    Args:
      run: whose folder, config and metrics they are.
      done: kept up to date.
      train, validation: batches of the steps, and of every evaluation.
      start: steps made so far.
      num_steps: of the whole run.
      asynchronous: whether a step returns before it is computed.
      peak_flops: of the devices together, a second, if it is known.
      tensors: names of the parameters, in the order that a step counts them in.

    Raises:
      FloatingPointError: if validation is not finite, or updates are skipped again and
        again (`shared/run/setbacks.py`); nothing of such a step, or of the one after
        it, is kept then.
      Stopped: at the end of the `with`, if the run was told to stop; by then
        it has been saved.
    """

    def __init__(
        self,
        run: Run,
        done: Progressed,
        start: int,
        num_steps: int,
        train: TrainBatches,
        validation: list[Batch],
        *,
        asynchronous: bool = True,
        peak_flops: float | None = None,
        tensors: Sequence[str] = (),
    ) -> None:
        self.run, self.cfg, self.done = run, run.cfg, done
        self.start, self.num_steps = start, num_steps
        self.train, self.validation = train, validation
        self.asynchronous, self.peak_flops = asynchronous, peak_flops
        self.tensors = tensors
        self.peers, self.watchdog = run.peers, run.watchdog
        if run.resumed and self.peers.is_first:
            run.keep_changes()
        # A run killed before its first checkpoint starts again, without any row.
        resume_step = (-1 if self.is_new else start) if run.resumed else None
        told = run.cfg if self.peers.is_first else _untracked(run.cfg)
        self.tracker = open_trackers(told, run.path, resume_step=resume_step)
        self.progress = Progress(num_steps, run.cfg.algo, start=start)
        self.stopping = 0  # number of a signal; after the step under way
        self._vote: Callable[[], int] = lambda: 0
        if run.resumed and not self.is_new:
            log.info("going on from the checkpoint of step %d", start)
        elif self.is_new:
            run.seconds_before_steps = round(time.perf_counter() - run.started, 1)
        self._pending: tuple[int, dict[str, Any], Batch] | None = None
        self._read: dict[str, float] | None = None
        self._setbacks = Setbacks(run, done, train)
        self._clock = time.perf_counter()

    def __enter__(self) -> "Loop":
        with ExitStack() as opened:
            self._stop = opened.enter_context(polite())
            opened.enter_context(self.progress)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is None:
            self.stopping = self.stopping or self._agreed()  # in the last save
        ended = "KILLED" if self.stopping else "FINISHED"
        with ExitStack() as after:
            after.callback(self.tracker.close, "FAILED" if raised[0] else ended)
            self._opened.__exit__(*raised)
        if self.stopping and raised[0] is None:
            last, path = self._last_step, self.run.path
            if self.peers.is_first:
                log.warning("stopped at step %d; go on: --resume %s", last, path)
            self.peers.wait("stopped")
            self.watchdog.over()
            raise Stopped(self.stopping)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        self._clock = time.perf_counter()
        self._last_step, self._is_saved = self.start, True
        while self._last_step < self.num_steps:
            # Told before the first step, as in its compilation, or inside a save.
            if self._is_saved:
                self.stopping = self.stopping or self._agreed()
            if self.stopping or self._is_enough:
                break
            number = self._last_step + 1
            self._last_step, self._is_saved = number, False
            keep_freed_memory()
            self.watchdog.now("data", number)
            batches = self._setbacks.next_batch(number)
            self.watchdog.now("step", number)
            yield number, batches
        self.watchdog.now("end", self._last_step)

    @property
    def ui_command(self) -> str:
        """The line that shows the run's metrics; empty where nothing does."""
        return self.tracker.ui_command

    def told_to_stop(self) -> bool:
        """Whether a signal has come; the loop ends after the step under way."""
        return bool(self._stop.told)

    @property
    def is_new(self) -> bool:
        """Whether the model has not been evaluated yet; it is before the first step."""
        return self.done.first_eval is None

    def log(self, number: int, metrics: dict[str, Any], batches: Batch) -> None:
        """Takes the metrics of the step just dispatched; reads those of the last."""
        self._wait()
        self._write({})
        if self.goes_back_to is not None:  # this step began at a state that is left
            return
        if self.peers.count > 1:  # this process has some of the rows
            batches = self.train.outline()
        self._pending = (number, metrics, batches)
        if not self.asynchronous:
            self._wait()
        # Where steps are asynchronous the others' answer is that to the step before:
        # nobody waits for it.
        before, self._vote = self._vote, self.peers.ask(self._stop.told)
        waits = not self.asynchronous or self.peers.count == 1
        self.stopping = self._vote() if waits else before()
        if self.evaluates(number) or self._saves_often(number) or self.saves(number):
            self._wait()
            doing = "evaluation" if self.evaluates(number) else "checkpoint"
            self.watchdog.now(doing, number)

    def evaluates(self, number: int) -> bool:
        """Whether the model is evaluated after this step."""
        return number % self.cfg.train.eval_every == 0 or number == self.num_steps

    def saves(self, number: int) -> bool:
        """Whether a checkpoint is written after this step and its evaluation.

        With early stopping also of every model that is the best so far. Not while
        updates are skipped: those before are what a roll-back needs.
        """
        due = self._saves_often(number) and not self.done.skipped_in_a_row
        due = due or number == self.num_steps
        ends = self._is_enough and self.evaluates(number)
        done = self.done
        best = best_kept(done.best_nll, done.best_step, self.cfg.train) == number
        return bool(due or self.stopping or ends or best)

    def _saves_often(self, number: int) -> bool:
        return number % self.cfg.train.save_every == 0

    def evaluated(
        self,
        number: int,
        results: list[dict[str, Any]],
        of_tasks: dict[str, float] | None = None,
    ) -> None:
        """Takes what `eval_step` gave for each validation batch.

        Early stopping follows `validation_nll` of them.

        Args:
          of_tasks: what `train.evaluate` has found beside them.
        """
        done = self.done
        metrics = eval_metrics(results, self.validation, self.cfg)
        require_finite_eval(metrics, number)
        if self.is_new and is_reference(results, self.validation, self.cfg):
            log.warning(
                "the reference gives the nll of the model itself: excess losses begin "
                "as rounding, and then say only what training has changed (name "
                "another --reference)"
            )
        nll = validation_nll(metrics, self.cfg)
        metrics = metrics | (of_tasks or {})
        if nll is not None:  # else it is neither better nor worse
            if done.best_nll is None or nll < done.best_nll - self.cfg.train.min_delta:
                done.best_nll, done.best_step, done.worse = nll, number, 0
            else:
                done.worse += 1
        done.last_eval = metrics
        if done.first_eval is None:
            done.first_eval = metrics
            self.tracker.log(metrics, number)
        self._write(metrics)
        if number > self.start:
            self.stopping = self.stopping or self._agreed()
        self.watchdog.now("checkpoint", number)

    def probed(self, number: int, result: dict[str, Any]) -> None:
        """Takes what `eval_step` gave for one batch of a step that is only saved.

        The metrics of a step are of the parameters before it: a checkpoint is written
        only of a model that gives finite numbers itself.
        """
        require_finite_eval(
            eval_metrics([result], self.validation[:1], self.cfg), number
        )
        self._clock = time.perf_counter()

    def position(self) -> dict[str, Any]:
        """What a checkpoint holds beside arrays, as JSON; the step before is logged.

        The memory that steps have freed is there for what writes the checkpoint.
        """
        self._write({})
        give_freed_memory_back()
        self.done.data, self._is_saved = self.train.state(), True
        return asdict(self.done)

    def _agreed(self) -> int:
        """The signal by which any process was told to stop: all end together."""
        return self.peers.ask(self._stop.told)()

    @property
    def goes_back_to(self) -> int | None:
        """The step of the checkpoint that the trainer has to restore now, if any."""
        return self._setbacks.goes_back_to

    def lost(self, number: int) -> None:
        """Says that a step has left no state: the run goes on from its checkpoint."""
        self._wait()
        self._setbacks.lost(number)

    def gone_back(self, step: int, position: dict[str, Any]) -> None:
        """Goes on from the checkpoint of a step, as a resume does."""
        self._setbacks.gone_back(step, position)
        self.tracker.go_back(step)
        self.start = self._last_step = step
        self._is_saved = True
        self._pending = self._read = None
        self._clock = time.perf_counter()

    @property
    def _is_enough(self) -> bool:
        return 0 < self.cfg.train.patience <= self.done.worse

    def _wait(self) -> None:
        """Waits for the pending step and takes its time, before anything else runs."""
        if self._pending is None or self._read is not None:
            return
        number, metrics, batches = self._pending
        read = read_step(number, metrics, self.cfg, self.tensors)  # host sync
        now = time.perf_counter()
        self._read = read.metrics | self._setbacks.take(number, read)
        seconds, self._clock = now - self._clock, now
        peak = self.peak_flops
        speed = throughput(self.cfg, batches, self._read, seconds, peak)
        self._read |= {"seconds": seconds, **speed}

    def _write(self, extra: dict[str, float]) -> None:
        """Logs the pending step, with `extra` from an evaluation after it."""
        self._wait()
        if self._pending is not None and self._read is not None:
            number = self._pending[0]
            before = time.perf_counter()
            self.tracker.log({**self._read, **extra}, number)
            if not self.asynchronous:  # else the next step is computed meanwhile
                self._clock += time.perf_counter() - before
            shown = ("loss", "nll_head_", "tokens_per_s", "mfu")
            fields = {k: v for k, v in self._read.items() if k.startswith(shown)}
            self.progress.update(number, **fields, **extra)
        self._pending = self._read = None
        if extra:  # an evaluation is no part of the next step's time
            self._clock = time.perf_counter()


def _untracked(cfg: Config) -> Config:
    """Of a process beside the first, which alone tells of metrics."""
    return replace(cfg, tracking=replace(cfg.tracking, to="none"))
