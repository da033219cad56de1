"""Frozen models: one is trained first if nobody names it, and they pass over the data.

What a pass leaves per document fills the signal cache (`shared/signals/passes.py`).

Axes: B rows, L positions, D width.
"""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from shared.axes import shift_to_tokens
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.data.documents import Split
from shared.data.tokenizer import Tokenizer
from shared.huggingface.tree import Params
from shared.run.finite import read_reference_step
from shared.run.inputs import reference_batches
from shared.run.open_run import Run
from shared.run.reference_steps import ReferenceSteps, begun_reference
from shared.signals.columns import COLUMNS
from shared.signals.passes import FrozenModel
from shared.state.frozen_models import read_weights
from wmtp_torch_mps import checkpoint
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.loss import nll_heads, run_trunk, targets_of
from wmtp_torch_mps.model import WMTP, fill, from_tree, named
from wmtp_torch_mps.state import make_state
from wmtp_torch_mps.step import train_step

Answer = Callable[[Batch], np.ndarray]


def measure_signals(run: Run, device: torch.device) -> None:
    """Makes every pass that no cache holds; a model is read once for all of its own."""
    folder = run.path / "reference"  # what there is of one that is trained first
    for frozen, passes in run.missing():
        split = run.inputs.splits.get("reference")
        model = load_frozen(frozen, split, device, folder)
        made = {name: make(model) for name, make in ANSWERS.items()}
        for wanted in passes:
            answer = made[COLUMNS[wanted.name].answer]
            for batch in wanted:
                wanted.keep(answer(batch))
    shutil.rmtree(folder, ignore_errors=True)


def load_frozen(
    frozen: FrozenModel,
    trained_on: Split | None,
    device: torch.device,
    kept: Path | None = None,
) -> WMTP:
    """The model on the device, from a run, from a folder, or trained here first."""
    if frozen.folder is None:
        assert trained_on is not None, "a reference of no folder is trained first"
        of = (frozen.cfg, trained_on, device)
        return train_reference(*of, kept, frozen.tokenizer)
    if frozen.run is not None:
        tree = checkpoint.read_trunk(frozen.folder, frozen.run, frozen.step)
    else:
        tree = read_weights(frozen)
    return from_arrays(tree, frozen.cfg, device)


def from_arrays(tree: Params, cfg: Config, device: torch.device) -> WMTP:
    """A model of a tree of NumPy arrays; a reward model where it has a `score`."""
    model = WMTP(cfg, score="score" in tree)
    fill(model, from_tree(tree, cfg))
    return model.to(device)


def train_reference(
    cfg: Config,
    split: Split,
    device: torch.device,
    kept: Path | None = None,
    tokenizer: Tokenizer | None = None,
) -> WMTP:
    """Plain next-token training of the start model on the `reference` split.

    Args:
      kept: folder of its checkpoints, at which it goes on after an interruption; none
        are written without.
      tokenizer: which goes with them.
    """
    train, num_steps = reference_batches(cfg, split)
    start, state = 0, None
    if kept is not None:
        read = partial(checkpoint.restore, kept, cfg, device)
        start, state = begun_reference(kept, read, train)
    state = state or make_state(cfg, device)
    tensors = [*named(state.params)]
    with ReferenceSteps(cfg, train, start, num_steps) as steps:
        for number, batches in steps:
            state, metrics = train_step(state, batches, num_steps)
            steps.log(read_reference_step(number, metrics, cfg, tensors))  # host sync
            if kept and tokenizer and steps.saves(number):
                checkpoint.save(kept, number, state, steps.position(), tokenizer)
    return state.params


def make_ref_nll(model: WMTP) -> Answer:
    """`nll_BL` of a batch, in nats under head 0; 0 where a token is no target."""

    @torch.no_grad()
    def head_0_nll(batch: Batch) -> np.ndarray:
        batch = to_device(batch, model.device)
        targets_BLK, mask_BLK = targets_of(batch, model.cfg)
        states = [run_trunk(model, batch).hidden_BLD]
        nll_BLK, _ = nll_heads(model, states, targets_BLK, mask_BLK)
        nll_BL = shift_to_tokens(nll_BLK[:, :, 0])
        return torch.where(batch.target_BL, nll_BL, 0.0).cpu().numpy()

    return head_0_nll


def make_scores(model: WMTP) -> Answer:
    """`score_BL` of a batch under a reward model, as if each token were the last.

    score = hidden . w        (after the final norm, no bias)
    """

    @torch.no_grad()
    def scores(batch: Batch) -> np.ndarray:
        hidden_BLD = run_trunk(model, to_device(batch, model.device)).hidden_BLD
        return model.score(hidden_BLD.float()).squeeze(-1).cpu().numpy()

    return scores


ANSWERS = {"nll": make_ref_nll, "score": make_scores}  # `Column.answer` -> its maker
