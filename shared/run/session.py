"""Pieces of a training run that both `train.py` put between their own."""

import json
import logging
from pathlib import Path
from typing import Any

from shared.run.backend import Backend
from shared.run.inputs import Inputs
from shared.run.loop import Parts, Progressed, fit
from shared.run.report import log_inputs, log_signals
from shared.signals.columns import find_signals
from shared.signals.kept import Signals, keep_signals, read_signals

log = logging.getLogger("wmtp")


def open_signals(inputs: Inputs, path: Path, backend: Backend) -> Signals | None:
    """Says what is trained on; the signals of the run, kept in its folder.

    A run that goes on reads those that it has kept, and needs no frozen model again.
    """
    log_inputs(inputs)
    cfg = inputs.cfg
    if cfg.algo == "baseline":
        return None
    lengths = {
        name: [len(document.tokens) for document in split.documents]
        for name, split in inputs.splits.items()
        if name in ("train", "validation")
    }
    signals = read_signals(path / "signals", lengths)
    if signals is None:
        signals = find_signals(
            cfg, inputs.splits, inputs.digests, inputs.sources, backend, inputs.device
        )
        keep_signals(path / "signals", signals)
    log_signals(signals)
    return signals


def finished_already(path: Path, start: int, num_steps: int) -> dict | None:
    """The summary of a run whose last checkpoint is its end; None if it can go on."""
    file = path / "summary.json"
    if start < num_steps or not file.exists():
        return None
    log.info("the run is finished: nothing to go on with in %s", path)
    return json.loads(file.read_text())


def train_to_end(
    state: Any, done: Progressed, start: int, parts: Parts, path: Path
) -> Any:
    """The loop (`fit`), and the tracker told how it ended; the last state.

    Raises:
      KeyboardInterrupt: if the run was told to stop; says how to go on with it.
    """
    status = "FAILED"
    try:
        state, interrupted = fit(state, done, start, parts)
        status = "KILLED" if interrupted else "FINISHED"
    finally:
        parts.tracker.close(status)
    if interrupted:
        log.warning("stopped at step %d; go on: --resume %s", int(state.step), path)
        raise KeyboardInterrupt
    return state
