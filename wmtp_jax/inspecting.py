"""The arrays behind `python -m wmtp_jax.inspect`: one document, one device."""

import jax
import numpy as np
from jax.sharding import Mesh

from shared.data.batches import Batch
from shared.data.tokenised import Split
from shared.inspection.subjects import Subject
from shared.inspection.tokens import Weighed, weigh_row
from shared.signals.passes import FrozenModel
from wmtp_jax import checkpoint
from wmtp_jax.reference import ANSWERS, load_frozen
from wmtp_jax.sharding import keep_compiled, mesh_of
from wmtp_jax.step import make_eval_step


def weigh(subject: Subject) -> Weighed:
    """What the model of a run's checkpoint makes of a document."""
    run, batch = subject.run, subject.batch
    keep_compiled(run.cfg)
    _, state, _ = checkpoint.read_run(run.path, run.cfg, run.step)
    result = make_eval_step(run.cfg, one_device())(state.params, batch)
    return weigh_row(batch, 0, jax.device_get(result), run.cfg)


def answer(
    frozen: FrozenModel, trained_on: Split | None, batch: Batch, kind: str
) -> np.ndarray:
    """What a frozen model answers at each position `[B, L]` of a batch."""
    keep_compiled(frozen.cfg)
    mesh = one_device()
    params = load_frozen(frozen, trained_on, mesh)
    return np.asarray(ANSWERS[kind](params, frozen.cfg, mesh)(batch))


def one_device() -> Mesh:
    """The first device: one row is not split over several."""
    return mesh_of(jax.devices()[:1])
