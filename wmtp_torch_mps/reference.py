"""Frozen models: one is trained first if nobody names it, and they pass over the data.

What a pass leaves per document fills the signal cache (`shared/signals/measure.py`).

Axes: B rows, L positions, D width.
"""

from functools import partial

import numpy as np
import torch

from shared.axes import shift_to_tokens
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.data.documents import Split
from shared.huggingface.tree import Params
from shared.signals.passes import Answer, reference_batches, run_steps
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.loss import nll_heads, run_trunk, targets_of
from wmtp_torch_mps.model import WMTP, fill, from_tree
from wmtp_torch_mps.state import make_state
from wmtp_torch_mps.step import train_step


def place(tree: Params, cfg: Config, device: torch.device) -> WMTP:
    """A model of a tree of NumPy arrays; a reward model where it has a `score`."""
    model = WMTP(cfg, score="score" in tree)
    fill(model, from_tree(tree, cfg))
    return model.to(device)


def train_reference(cfg: Config, split: Split, device: torch.device) -> WMTP:
    """Plain next-token training of the start model on the `reference` split."""
    batches, num_steps = reference_batches(cfg, split)
    state = make_state(cfg, device)
    step = partial(train_step, num_steps=num_steps)
    return run_steps(state, step, batches, num_steps).params


def make_ref_nll(model: WMTP, cfg: Config, device: torch.device) -> Answer:
    """`nll_BL` of a batch, in nats under head 0; 0 where a token is no target."""

    @torch.no_grad()
    def head_0_nll(batch: Batch) -> np.ndarray:
        batch = to_device(batch, device)
        targets_BLK, mask_BLK = targets_of(batch, cfg)
        states = [run_trunk(model, batch).hidden_BLD]
        nll_BLK, _ = nll_heads(model, states, targets_BLK, mask_BLK)
        nll_BL = shift_to_tokens(nll_BLK[:, :, 0])
        return torch.where(batch.target_BL, nll_BL, 0.0).cpu().numpy()

    return head_0_nll


def make_scores(model: WMTP, cfg: Config, device: torch.device) -> Answer:
    """`score_BL` of a batch under a reward model, as if each token were the last.

    score = hidden . w        (after the final norm, no bias)
    """
    del cfg

    @torch.no_grad()
    def scores(batch: Batch) -> np.ndarray:
        hidden_BLD = run_trunk(model, to_device(batch, device)).hidden_BLD
        return model.score(hidden_BLD.float()).squeeze(-1).cpu().numpy()

    return scores
