"""Trains a model: `python -m wmtp_jax.train --algo critic`.

`_train` reads from top to bottom: signals, model, value head, loop, summary. What comes
before it (config, data, run folder) is `shared/run/main.py`.
"""

import logging
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from shared.config.fields import Config
from shared.files import replace_folder
from shared.run import main as launch
from shared.run.backend import Backend
from shared.run.inputs import Inputs, count_steps, make_batches
from shared.run.loop import Parts, Progressed
from shared.run.report import finish, log_stage1, summarize
from shared.run.session import finished_already, open_signals, train_to_end
from shared.tracking.tracking import open_trackers
from wmtp_jax import checkpoint, critic, reference, report
from wmtp_jax.export import NAME, adopt, export
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.sharding import find_mesh, keep_compiled, kind_of, peak_of, replicated
from wmtp_jax.state import abstract_state, make_state
from wmtp_jax.step import make_eval_step, make_train_step

log = logging.getLogger("wmtp")

BACKEND = Backend(
    name=NAME,
    versions={"jax": jax.__version__},
    kind_of=kind_of,
    find_device=find_mesh,
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


def _train(inputs: Inputs, path: Path, resumed: bool, step: int | None) -> dict:
    cfg, mesh = inputs.cfg, inputs.device
    started = time.perf_counter()
    keep_compiled(cfg)
    signals = open_signals(inputs, path, BACKEND)
    train, validation = make_batches(cfg, inputs.splits, signals)
    num_steps = count_steps(cfg, train)
    tx = make_optimizer(cfg, num_steps)

    manager = checkpoint.open_manager(
        path / "checkpoints", keep=cfg.train.keep_checkpoints
    )
    like = abstract_state(cfg, tx)
    found = checkpoint.restore(manager, like, step) if resumed else None
    if found is not None:
        start, state, position = found
        done = Progressed(**position)
        train.restore(done.data)
        if (summary := finished_already(path, start, num_steps)) is not None:
            manager.close()
            return summary
        checkpoint.drop_after(manager, start)
        log.info("going on from the checkpoint of step %d", start)
    else:
        start, done = 0, Progressed(train.state())
        state = make_state(cfg, tx)
        if cfg.algo == "critic":
            fresh, _ = make_batches(cfg, inputs.splits, signals)
            params = state.params
            stage1 = critic.train_value_head(
                params["value"], params["trunk"], cfg, fresh, validation
            )
            log_stage1(stage1)
            done.stage1 = stage1.summary()
            state = replace(state, params={**params, "value": stage1.head})
    state = jax.device_put(state, replicated(mesh))
    # A run killed before its first checkpoint starts again, without any row.
    resume_step = (start if found else -1) if resumed else None
    tracker = open_trackers(cfg, path, resume_step=resume_step)
    train_step, traces = make_train_step(cfg, tx, num_steps, mesh)
    parts = Parts(
        cfg=cfg,
        num_steps=num_steps,
        step=train_step,
        eval_step=make_eval_step(cfg, mesh),
        save=lambda *checkpoint_of: checkpoint.save(manager, *checkpoint_of),
        train=train,
        validation=validation,
        tracker=tracker,
        asynchronous=True,
        peak_flops=peak_of(mesh, cfg),
    )
    with closing(manager):
        state = train_to_end(state, done, start, parts, path)
    if cfg.train.export:
        model = {"params": state.params, "cfg": cfg, "tokenizer": inputs.tokenizer}
        replace_folder(path / "model", partial(export, **model))
    machine = report.machine(state.params) | {"train_step_traces": len(traces)}
    steps = int(state.step)
    summary = summarize(inputs, signals, done, steps, num_steps, machine)
    summary["seconds"] = round(time.perf_counter() - started, 1)
    finish(path, cfg, summary, tracker.ui_command)
    return summary


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, 2 for bad input, 130 if stopped."""
    return launch.main(BACKEND, _train, report.dry_run, argv)


if __name__ == "__main__":
    sys.exit(main())
