"""Trains a model: `python -m wmtp_torch_mps.train --algo critic`.

`_train` reads from top to bottom: signals, model, value head, loop, summary. What comes
before it (config, data, run folder) is `shared/run/main.py`.
"""

import logging
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from shared.config.fields import Config
from shared.files import replace_folder
from shared.run import main as launch
from shared.run.backend import Backend
from shared.run.inputs import Inputs, count_steps, make_batches
from shared.run.loop import Parts, Progressed
from shared.run.report import finish, log_stage1, summarize
from shared.run.session import finished_already, open_signals, train_to_end
from shared.tracking.tracking import open_trackers
from wmtp_torch_mps import checkpoint, critic, reference, report
from wmtp_torch_mps.device import find_device, memory_told
from wmtp_torch_mps.export import adopt, export
from wmtp_torch_mps.self_test_batch import test_device
from wmtp_torch_mps.state import make_state
from wmtp_torch_mps.step import eval_step, train_step

log = logging.getLogger("wmtp")

BACKEND = Backend(
    name=checkpoint.NAME,
    versions={"torch": torch.__version__},
    kind_of=lambda device: device.type,
    find_device=find_device,
    identify=checkpoint.identify,
    read_trunk=checkpoint.read_trunk,
    adopt=adopt,
    place=reference.place,
    train_reference=reference.train_reference,
    make_ref_nll=reference.make_ref_nll,
    make_scores=reference.make_scores,
)


def run(cfg: Config, resume: str = "", overrides: dict[str, Any] | None = None) -> dict:
    """One training run, from config to summary; see `launch.run`."""
    return launch.run(BACKEND, _train, cfg, resume, overrides)


@memory_told()
def _train(inputs: Inputs, path: Path, resumed: bool, step: int | None) -> dict:
    cfg, device = inputs.cfg, inputs.device
    started = time.perf_counter()
    splits = test_device(inputs)  # before anything is computed, and cached, on it
    signals = open_signals(inputs, path, BACKEND)
    train, validation = make_batches(cfg, inputs.splits, signals)
    num_steps = count_steps(cfg, train)

    found = checkpoint.restore(path, cfg, device, step) if resumed else None
    if found is not None:
        start, state, position = found
        done = Progressed(**position)
        train.restore(done.data)
        if (summary := finished_already(path, start, num_steps)) is not None:
            return summary
        checkpoint.drop_after(path, start)
        log.info("going on from the checkpoint of step %d", start)
    else:
        start, done = 0, Progressed(train.state())
        state = make_state(cfg, device)
        if cfg.algo == "critic":
            fresh, _ = make_batches(cfg, inputs.splits, signals)
            stage1 = critic.train_value_head(state.params, fresh, validation)
            log_stage1(stage1)
            done.stage1 = stage1.summary()
    state.splits = max(state.splits, splits)
    # A run killed before its first checkpoint starts again, without any row.
    resume_step = (start if found else -1) if resumed else None
    tracker = open_trackers(cfg, path, resume_step=resume_step)
    parts = Parts(
        cfg=cfg,
        num_steps=num_steps,
        step=partial(train_step, num_steps=num_steps),
        eval_step=eval_step,
        save=lambda step, state, position: checkpoint.save(
            path, step, state, position, inputs.tokenizer
        ),
        train=train,
        validation=validation,
        tracker=tracker,
        asynchronous=False,
    )
    state = train_to_end(state, done, start, parts, path)
    if cfg.train.export:
        write = partial(export, model=state.params, tokenizer=inputs.tokenizer)
        replace_folder(path / "model", write)
    machine = report.machine(state)
    summary = summarize(inputs, signals, done, state.step, num_steps, machine)
    summary["seconds"] = round(time.perf_counter() - started, 1)
    finish(path, cfg, summary, tracker.ui_command)
    return summary


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for bad input, 130 if stopped."""
    return launch.main(BACKEND, _train, report.dry_run, argv)


if __name__ == "__main__":
    sys.exit(main())
