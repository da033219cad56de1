"""The arrays behind `python -m wmtp_torch_mps.inspect`: one document."""

import numpy as np

from shared.data.batches import Batch
from shared.data.tokenised import Split
from shared.inspection.subjects import Subject
from shared.inspection.tokens import Weighed, weigh_row
from shared.signals.passes import FrozenModel
from wmtp_torch_mps import checkpoint
from wmtp_torch_mps.device import find_device
from wmtp_torch_mps.reference import ANSWERS, load_frozen
from wmtp_torch_mps.step import eval_step


def weigh(subject: Subject) -> Weighed:
    """What the model of a run's checkpoint makes of a document."""
    run, batch = subject.run, subject.batch
    device = find_device(run.cfg)
    found = checkpoint.restore(run.path, run.cfg, device, run.step)
    assert found is not None, "the checkpoint was found before"
    return weigh_row(batch, 0, eval_step(found[1].params, batch), run.cfg)


def answer(
    frozen: FrozenModel, trained_on: Split | None, batch: Batch, kind: str
) -> np.ndarray:
    """What a frozen model answers at each position `[B, L]` of a batch."""
    model = load_frozen(frozen, trained_on, find_device(frozen.cfg))
    return ANSWERS[kind](model)(batch)
