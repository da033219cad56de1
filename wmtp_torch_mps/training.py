"""A run of `python -m wmtp_torch_mps.train`, once its command line has been read.

`train` reads from top to bottom: run folder and inputs, signals, state, value head, the
loop, summary. `docs/reading.md` walks through all that it calls.
"""

from functools import partial
from typing import Any

import torch

from shared.card.card import write_card
from shared.config.fields import Config
from shared.critic.stage1 import Stage1
from shared.data.batches import TrainBatches
from shared.evaluation.in_training import read_parts
from shared.files import replace_folder
from shared.huggingface.token_map import read_token_map
from shared.inspection.in_training import TrainingPage
from shared.run.inputs import make_batches
from shared.run.loop import Loop
from shared.run.open_run import Run, config_in_force
from shared.run.peers import ALONE
from shared.run.plan import log_jump, plan_steps
from shared.run.shared_run import open_shared_run
from shared.signals.kept import Signals
from shared.state.checkpoints import (
    Progressed,
    drop_after,
    step_to_export,
    steps_in,
)
from wmtp_torch_mps import NAME, checkpoint, critic, report
from wmtp_torch_mps.device import find_device, memory_told
from wmtp_torch_mps.export import adopt, export
from wmtp_torch_mps.in_training import make_tasks
from wmtp_torch_mps.model import learning
from wmtp_torch_mps.optimizer import learning_rate
from wmtp_torch_mps.reference import measure_signals
from wmtp_torch_mps.self_test_batch import test_device
from wmtp_torch_mps.state import TrainState, make_state
from wmtp_torch_mps.step import eval_step, train_step


@memory_told()
def train(
    cfg: Config, resume: str = "", overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One training run, from config to summary: what `summary.json` holds.

    Args:
      cfg: what to run; with `resume` only its output_dir is read.
      resume: a run or checkpoint to go on with, or an exported folder of either
        backend.
      overrides: fields given by files and options; with `resume` they must fit.

    Raises:
      ValueError: for anything the user can mend.
    """
    given = overrides or {}
    cfg = config_in_force(cfg, resume, given, NAME)
    device = find_device(cfg)
    computed_by = {"device": device.type, "torch": torch.__version__}
    parts = read_parts(cfg, writes=False)  # before there is a run's folder
    wanted = (cfg, resume, NAME, computed_by, given)
    with open_shared_run(*wanted, ALONE) as run:
        cfg, tokenizer = run.cfg, run.inputs.tokenizer
        if run.adopted:
            adopt(run.adopted, run.path, cfg, device)
        splits = test_device(run.inputs, device)  # before anything is computed on it
        measure_signals(run, device)
        signals = run.signals()
        training, validation = make_batches(cfg, run.inputs.splits, signals)
        num_steps = plan_steps(run.inputs, given, training)
        start, state, done = begin(run, device, training, signals)
        if (summary := run.finished_already(done, start, num_steps)) is not None:
            return summary
        steps, rate = (start, num_steps), partial(learning_rate, cfg.optimizer)
        log_jump(cfg, run.before, training, steps, rate)
        drop_after(run.path / "checkpoints", start)
        state.splits = max(state.splits, splits, done.micro_batch_splits)
        data = (training, validation)
        known = {"asynchronous": False, "tensors": [*learning(state.params)]}
        with Loop(run, done, *steps, *data, **known) as loop:
            asked = (cfg, parts, run.inputs.tokenizer, num_steps)
            tasks = make_tasks(*asked, loop.told_to_stop)
            page = TrainingPage(loop)
            if loop.is_new:
                results = [eval_step(state.params, b) for b in validation]
                page.add(0, results)
                loop.evaluated(0, results, tasks(0, state.params))
                checkpoint.save(run.path, 0, state, loop.position(), tokenizer)
            for number, batches in loop:
                state, metrics = train_step(state, batches, num_steps)
                loop.log(number, metrics, batches)
                if loop.goes_back_to is not None:
                    del state
                    state, page = go_back(loop, device), TrainingPage(loop)
                    continue
                if loop.evaluates(number):
                    results = [eval_step(state.params, b) for b in validation]
                    page.add(number, results)
                    loop.evaluated(number, results, tasks(number, state.params))
                elif loop.saves(number):
                    loop.probed(number, eval_step(state.params, validation[0]))
                if loop.saves(number):
                    checkpoint.save(run.path, number, state, loop.position(), tokenizer)

        machine = report.machine(state)
        last, exported = state.step, None
        if cfg.train.export:
            saved = steps_in(run.path / "checkpoints")
            exported = step_to_export(done, cfg.train, last, saved)
            if exported != last:
                del state  # before the best is read: never two models in memory
                _, state, _ = checkpoint.read_run(run.path, cfg, exported)
            known = {"tokenizer": tokenizer, "token_map": read_token_map(run.path)}
            write = partial(export, model=state.params, **known)
            replace_folder(run.path / "model", write)
        ends = (last, num_steps, machine, loop.ui_command, exported)
        summary = run.finish(done, *ends)
        write_card(run.path)
        return summary


def begin(
    run: Run,
    device: torch.device,
    training: TrainBatches,
    signals: Signals,
) -> tuple[int, TrainState, Progressed]:
    """`(step, state, position)`: of a checkpoint, or new, with its value head trained.

    `training` is put where the checkpoint was.
    """
    cfg, found = run.cfg, None
    if run.resumed:
        found = checkpoint.restore(run.path, cfg, device, run.step)
    if found is not None:
        start, state, position = found
        done = Progressed(**position)
        training.restore(done.data)
        return start, state, done
    state, done = make_state(cfg, device), Progressed(training.state())
    if cfg.algorithm.value_head and cfg.critic.stage1_epochs:
        with Stage1(run, signals) as stage1:
            critic.train_value_head(state.params, stage1)
        done.stage1 = stage1.summary()
    return 0, state, done


def go_back(loop: Loop, device: torch.device) -> TrainState:
    """The state of the checkpoint that the loop goes back to, as on a resume."""
    run = loop.run
    drop_after(run.path / "checkpoints", loop.goes_back_to)
    found = checkpoint.restore(run.path, run.cfg, device)
    assert found is not None, "a loop goes back to a checkpoint that is there"
    step, state, position = found
    loop.gone_back(step, position)
    state.splits = max(state.splits, loop.done.micro_batch_splits)
    return state
