"""Frozen models: one is trained first if nobody names it, and they pass over the data.

What a pass leaves per document fills the signal cache (`shared/signals/passes.py`).

Axes: B rows, L positions, K heads, D width.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from shared.axes import shift_to_tokens
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.data.documents import Split
from shared.run.finite import read_reference_step
from shared.run.inputs import reference_batches
from shared.run.open_run import Run
from shared.run.peers import ALONE, Peers
from shared.run.reference_steps import ReferenceSteps, begun_reference
from shared.signals.columns import COLUMNS
from shared.signals.passes import FrozenModel
from shared.state.frozen_models import open_weights
from wmtp_jax import checkpoint, layout, model, sharding
from wmtp_jax.loss import run_heads, run_trunk
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.processes import spread_rows
from wmtp_jax.state import abstract_state, make_state, tensor_names
from wmtp_jax.step import make_train_step

Answer = Callable[[Batch], jax.Array]


def measure_signals(run: Run, mesh: Mesh) -> None:
    """Makes every pass that no cache holds; a model is read once for all of its own."""
    folder = run.path / "reference"  # what there is of one that is trained first
    for frozen, passes in run.missing():
        split = run.inputs.splits.get("reference")
        params = load_frozen(frozen, split, mesh, folder, run.peers)
        made = {n: make(params, frozen.cfg, mesh) for n, make in ANSWERS.items()}
        for wanted in passes:
            answer = made[COLUMNS[wanted.name].answer]
            for batch in wanted:
                wanted.keep(answer(batch))
    if run.peers.is_first:
        shutil.rmtree(folder, ignore_errors=True)


def load_frozen(
    frozen: FrozenModel,
    trained_on: Split | None,
    mesh: Mesh,
    kept: Path | None = None,
    peers: Peers = ALONE,
) -> model.Params:
    """Its weights on the devices, from a run, from a folder, or trained here first."""
    if frozen.folder is None:
        assert trained_on is not None, "a reference of no folder is trained first"
        return train_reference(frozen.cfg, trained_on, mesh, kept, peers)
    if frozen.run is not None:
        where = (frozen.run, frozen.step, mesh, peers)
        return checkpoint.read_trunk(frozen.folder, *where)
    return layout.read_leaves(open_weights(frozen), mesh)


def train_reference(
    cfg: Config,
    split: Split,
    mesh: Mesh,
    kept: Path | None = None,
    peers: Peers = ALONE,
) -> model.Params:
    """Plain next-token training of the start model on the `reference` split.

    Args:
      kept: folder of its checkpoints, at which it goes on after an interruption; none
        are written without.
    """
    train, num_steps = reference_batches(cfg, split)
    tx = make_optimizer(cfg, num_steps)
    start, state = 0, None
    if kept is not None:
        like = abstract_state(cfg, tx)
        read = partial(checkpoint.restore, kept, like, mesh=mesh, peers=peers)
        start, state = begun_reference(kept, read, train)
    state = state or make_state(cfg, tx, mesh)
    step, _ = make_train_step(cfg, tx, num_steps, mesh)
    tensors = tensor_names(state.params)
    rows, size = sharding.split_rows(mesh, micro_batches=True), cfg.data.batch_size
    with ReferenceSteps(cfg, train, start, num_steps, peers) as steps:
        for number, batches in steps:
            state, metrics = step(state, spread_rows(batches, rows, size))
            steps.log(read_reference_step(number, metrics, cfg, tensors))  # host sync
            if kept and steps.saves(number):
                position = steps.position()
                checkpoint.save(kept, number, state, position, steps.keep, peers)
    return state.params


def make_ref_nll(params: model.Params, cfg: Config, mesh: Mesh) -> Answer:
    """`nll_BL` of a batch, in nats under head 0; 0 where a token is no target."""

    def head_0_nll(params: model.Params, batch: Batch) -> jax.Array:
        _, nll_BLK, _ = run_heads(params, batch, cfg, mesh=mesh)
        nll_BL = shift_to_tokens(nll_BLK[:, :, 0])
        return jnp.where(batch.target_BL, nll_BL, 0.0)

    return partial(sharding.jit_pass(head_0_nll, mesh), params)


def make_scores(params: model.Params, cfg: Config, mesh: Mesh) -> Answer:
    """`score_BL` of a batch under a reward model, as if each token were the last.

    score = hidden . w        (after the final norm, no bias)
    """

    def scores(params: model.Params, batch: Batch) -> jax.Array:
        outputs = run_trunk(params, batch, cfg, mesh=mesh)
        hidden_BLD = outputs.hidden_BLD.astype(jnp.float32)
        return jnp.einsum("bld,d->bl", hidden_BLD, params["score"])

    return partial(sharding.jit_pass(scores, mesh), params)


ANSWERS = {"nll": make_ref_nll, "score": make_scores}  # `Column.answer` -> its maker
