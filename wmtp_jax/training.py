"""A run of `python -m wmtp_jax.train`, once its command line has been read.

`train` reads from top to bottom: run folder and inputs, signals, state, value head, the
jitted step, the loop, summary. `docs/reading.md` walks through all that it calls.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from optax import GradientTransformation

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
from shared.run.peers import ALONE, Peers
from shared.run.plan import log_jump, plan_steps
from shared.run.shared_run import open_shared_run
from shared.signals.kept import Signals
from shared.state.checkpoints import (
    Progressed,
    drop_after,
    step_to_export,
    steps_in,
)
from wmtp_jax import NAME, checkpoint, critic, layout, report
from wmtp_jax.export import adopt, export
from wmtp_jax.fitting import FittedStep
from wmtp_jax.in_training import make_tasks
from wmtp_jax.optimizer import make_optimizer, rate_of
from wmtp_jax.processes import own_rows, spread, spread_rows, whole_on_host
from wmtp_jax.reference import measure_signals
from wmtp_jax.sharding import (
    find_mesh,
    jax_told,
    keep_compiled,
    kind_of,
    peak_of,
    replicated,
    split_rows,
)
from wmtp_jax.state import (
    TrainState,
    abstract_state,
    learning_of,
    make_state,
    tensor_names,
)
from wmtp_jax.step import abstract_batch, make_eval_step, make_train_step


@jax_told()
def train(
    cfg: Config,
    resume: str = "",
    overrides: dict[str, Any] | None = None,
    peers: Peers = ALONE,
) -> dict[str, Any]:
    """One training run, from config to summary: what `summary.json` holds.

    Args:
      cfg: what to run; with `resume` only its output_dir is read.
      resume: a run or checkpoint to go on with, or an exported folder of either
        backend.
      overrides: fields given by files and options; with `resume` they must fit.
      peers: the processes that train together, all of which call this.

    Raises:
      ValueError: for anything the user can mend.
      Stalled: if a peer is gone.
    """
    given = overrides or {}
    cfg = config_in_force(cfg, resume, given, NAME)
    mesh = find_mesh(cfg)
    computed_by = {"device": kind_of(mesh), "jax": jax.__version__}
    parts = read_parts(cfg, writes=True)  # before there is a run's folder
    wanted = (cfg, resume, NAME, computed_by, given)
    with open_shared_run(*wanted, peers) as run:
        cfg = run.cfg
        keep_compiled(cfg)
        if run.adopted:
            adopt(run.adopted, run, mesh)
        measure_signals(run, mesh)
        signals = run.signals()
        training, validation = make_batches(cfg, run.inputs.splits, signals)
        rows = split_rows(mesh, micro_batches=True)
        training.keep_rows(*own_rows(rows, abstract_batch(cfg).tokens_BL.shape))
        num_steps = plan_steps(run.inputs, given, training)
        tx = make_optimizer(cfg, num_steps)
        plan = cfg.train
        start, state, done = begin(run, tx, training, signals, mesh)
        if (summary := run.finished_already(done, start, num_steps)) is not None:
            return summary
        steps, rate = (start, num_steps), partial(rate_of, cfg.optimizer)
        log_jump(cfg, run.before, training, steps, rate)
        if peers.is_first:
            drop_after(run.path / "checkpoints", start)
        state = spread(state, layout.kept(mesh, state))
        eval_step = make_eval_step(cfg, mesh)
        train_step, traces = make_train_step(cfg, tx, num_steps, mesh)
        data = (training, validation)
        names = tensor_names(learning_of(state.params, cfg))
        peak = peak_of(mesh, cfg)
        known = {"tensors": names, "peak_flops": peak}
        known["asynchronous"] = kind_of(mesh) != "cpu"
        with Loop(run, done, *steps, *data, **known) as loop:
            asked = (cfg, parts, run.inputs.tokenizer, num_steps)
            tasks = make_tasks(*asked, loop.told_to_stop, peers)
            page = TrainingPage(loop)
            if loop.is_new:
                results = [eval_step(state.params, b) for b in validation]
                page.add(0, results)
                loop.evaluated(0, results, tasks(0, state.params))
                checkpoint.save(run.path, 0, state, loop.position(), plan, peers)
            place = partial(spread_rows, sharding=rows, rows=cfg.data.batch_size)
            step = FittedStep(train_step, cfg, mesh, place, done.micro_batch_splits)
            step.compile(state)
            for number, batches in loop:
                state, metrics = step(number, state, batches)
                if state is None:
                    loop.lost(number)
                else:
                    loop.log(number, metrics, batches)
                if loop.goes_back_to is not None:
                    del state
                    state, page = go_back(loop, tx, mesh), TrainingPage(loop)
                    continue
                if loop.evaluates(number):
                    results = [eval_step(state.params, b) for b in validation]
                    page.add(number, results)
                    loop.evaluated(number, results, tasks(number, state.params))
                elif loop.saves(number):
                    loop.probed(number, eval_step(state.params, validation[0]))
                if loop.saves(number):
                    position = loop.position()
                    checkpoint.save(run.path, number, state, position, plan, peers)

        last, exported = int(state.step), None
        if plan.export:
            exported = step_to_export(
                done, plan, last, steps_in(run.path / "checkpoints")
            )
            if exported != last:
                del state  # before the best is read: never two models in memory
                _, state, _ = checkpoint.read_run(run.path, cfg, exported, mesh, peers)
            model = {"params": whole_on_host(state.params, peers), "cfg": cfg}
            model["token_map"] = read_token_map(run.path)
            write = partial(export, **model, tokenizer=run.inputs.tokenizer)

        def finish() -> dict[str, Any]:
            machine = report.machine(cfg, step.compiled)
            machine["train_step_traces"] = len(traces)
            if plan.export:
                replace_folder(run.path / "model", write)
            ends = (last, num_steps, machine, loop.ui_command, exported)
            summary = run.finish(done, *ends)
            write_card(run.path)
            return summary

        return peers.told("summary", finish)


def begin(
    run: Run,
    tx: GradientTransformation,
    training: TrainBatches,
    signals: Signals,
    mesh: Mesh,
) -> tuple[int, TrainState, Progressed]:
    """`(step, state, position)`: of a checkpoint, or new, with its value head trained.

    `training` is put where the checkpoint was.
    """
    cfg, found = run.cfg, None
    if run.resumed:
        like = abstract_state(cfg, tx)
        found = checkpoint.restore(run.path, like, run.step, mesh, run.peers)
    if found is not None:
        start, state, position = found
        done = Progressed(**position)
        training.restore(done.data)
        return start, state, done
    state, done = make_state(cfg, tx, mesh), Progressed(training.state())
    if cfg.algorithm.value_head and cfg.critic.stage1_epochs:
        # Once, not at every batch; the value head is small.
        head = spread(state.params["value"], replicated(mesh))
        trunk = state.params["trunk"]
        with Stage1(run, signals, devices=layout.row_parts(mesh)) as stage1:
            head = critic.train_value_head(head, trunk, cfg, stage1, mesh)
        done.stage1 = stage1.summary()
        state = replace(state, params={**state.params, "value": head})
    return 0, state, done


def go_back(loop: Loop, tx: GradientTransformation, mesh: Mesh) -> TrainState:
    """The state of the checkpoint that the loop goes back to, as on a resume."""
    run, like = loop.run, abstract_state(loop.run.cfg, tx)
    if run.peers.is_first:
        drop_after(run.path / "checkpoints", loop.goes_back_to)
    found = checkpoint.restore(run.path, like, None, mesh, run.peers)
    assert found is not None, "a loop goes back to a checkpoint that is there"
    step, state, position = found
    loop.gone_back(step, position)
    return spread(state, layout.kept(mesh, state))
