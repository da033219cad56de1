"""The training loop: dispatch a step, read the last one, evaluate and save on time."""

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from shared.config.fields import Config
from shared.data.batches import Batch, TrainBatches
from shared.run.freed_memory import keep_freed_memory
from shared.run.validate import validate
from shared.tracking.console import Progress
from shared.tracking.flops import throughput
from shared.tracking.tracking import Tracker


@dataclass
class Progressed:
    """What the loop knows beside the arrays; saved with every checkpoint as JSON.

    Attributes:
      data: position in the training data.
      first_eval, last_eval: metrics of the first and the newest evaluation.
      best_nll, best_step: smallest validation nll so far and where it was.
      worse: evaluations in a row that were no better.
      stage1: how the value head's first stage ended.
    """

    data: dict[str, int]
    first_eval: dict[str, float] | None = None
    last_eval: dict[str, float] | None = None
    best_nll: float | None = None
    best_step: int = 0
    worse: int = 0
    stage1: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What `fit` puts together; built once in a backend's `train.py`.

    Attributes:
      step: `(state, batches) -> (state, metrics)`.
      eval_step: see `validate`.
      asynchronous: whether `step` returns before it is computed.
      peak_flops: of the devices together, a second, if it is known.
      save: `(step, state, position)` writes a checkpoint; `position` is JSON.
    """

    cfg: Config
    num_steps: int
    step: Callable[..., Any]
    eval_step: Callable[..., Any]
    train: TrainBatches
    validation: list[Batch]
    save: Callable[[int, Any, dict[str, Any]], None]
    tracker: Tracker
    asynchronous: bool
    peak_flops: float | None = None


@dataclass
class StopRequest:
    """Set by the first Ctrl-C or SIGTERM; the loop then saves and ends."""

    requested: bool = False


def fit(state: Any, done: Progressed, start: int, parts: Parts) -> tuple[Any, bool]:
    """Trains from step `start` to the end: `(state, interrupted)`.

    `state` is the backend's, with its `params`; `done` is kept up to date. Metrics of
    step n are read after step n + 1 has been dispatched (where steps are asynchronous),
    so that the device never waits for the host.

    Raises:
      FloatingPointError: if the loss is not finite; no checkpoint is written then.
    """
    cfg, train = parts.cfg, parts.train
    with (
        stop_on_signals() as stop,
        Progress(parts.num_steps, cfg.algo, start=start) as progress,
    ):
        if done.first_eval is None:  # else resumed, maybe from step 0
            done.first_eval = _evaluate(state, done, 0, parts)
            parts.tracker.log(done.first_eval, 0)
            _save(state, done, 0, parts)
        recorder = Recorder(parts, progress)  # its clock starts with step 1
        stopping = False
        for number in range(start + 1, parts.num_steps + 1):
            if stopping or _is_enough(done, cfg):
                break
            if number == start + 2:  # the first step has compiled
                keep_freed_memory()
            batches = next(train)
            state, metrics = parts.step(state, batches)
            recorder.wait()
            recorder.log({})
            recorder.pending = (number, metrics, batches)
            if not parts.asynchronous:
                recorder.wait()
            stopping = stop.requested  # read once: it may be set at any moment
            last = number == parts.num_steps
            evaluates = number % cfg.train.eval_every == 0 or last
            saves = number % cfg.train.save_every == 0 or last or stopping
            if not (evaluates or saves):
                continue
            recorder.wait()
            extra = _evaluate(state, done, number, parts) if evaluates else {}
            recorder.log(extra)
            if saves or _is_enough(done, cfg):
                _save(state, done, number, parts)
    return state, stopping


class Recorder:
    """Reads the metrics of the step dispatched last, and hands them on."""

    def __init__(self, parts: Parts, progress: Progress) -> None:
        self.parts = parts
        self.progress = progress
        self.pending: tuple[int, dict[str, Any], Batch] | None = None
        self.read: dict[str, float] | None = None
        self.clock = time.perf_counter()

    def wait(self) -> None:
        """Waits for the pending step and takes its time, before anything else runs."""
        if self.pending is None or self.read is not None:
            return
        number, metrics, batches = self.pending
        self.read = {name: float(x) for name, x in metrics.items()}  # host sync
        if not math.isfinite(self.read["loss"]):
            raise FloatingPointError(f"loss is {self.read['loss']} at step {number}")
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        cfg, peak = self.parts.cfg, self.parts.peak_flops
        speed = throughput(cfg, batches, self.read, seconds, peak)
        self.read |= {"seconds": seconds, **speed}

    def log(self, extra: dict[str, float]) -> None:
        """Logs the step that was waited for, with `extra` from an evaluation."""
        if self.pending is not None and self.read is not None:
            number = self.pending[0]
            self.parts.tracker.log({**self.read, **extra}, number)
            shown = ("loss", "nll_head_", "tokens_per_s", "mfu")
            fields = {k: v for k, v in self.read.items() if k.startswith(shown)}
            self.progress.update(number, **fields, **extra)
        self.pending = self.read = None
        if extra:  # an evaluation is no part of the next step's time
            self.clock = time.perf_counter()


def _is_enough(done: Progressed, cfg: Config) -> bool:
    return 0 < cfg.train.patience <= done.worse


def _evaluate(
    state: Any, done: Progressed, number: int, parts: Parts
) -> dict[str, float]:
    metrics = validate(state.params, parts.validation, parts.eval_step, parts.cfg)
    done.last_eval = metrics
    nll = metrics["eval_nll_head_0"]
    if done.best_nll is None or nll < done.best_nll - parts.cfg.train.min_delta:
        done.best_nll, done.best_step, done.worse = nll, number, 0
    else:
        done.worse += 1
    return metrics


def _save(state: Any, done: Progressed, number: int, parts: Parts) -> None:
    done.data = parts.train.state()
    parts.save(number, state, asdict(done))


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """The first Ctrl-C or SIGTERM asks the loop to end; a second one ends it."""
    stop = StopRequest()

    def ask(number: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
