"""The reference that is trained first, in both trainers: one rule for all batches."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from shared.config.fields import OptimizerConfig, ReferenceConfig
from shared.data.tokenizer import load_tokenizer
from shared.run.inputs import reference_batches
from shared.state.frozen_models import untrained_reference
from tests.cases import shorter
from tests.minis import gap
from tests.signal_passes import split_of
from tests.small import small_config
from wmtp_jax import reference as jax_reference
from wmtp_jax.sharding import make_mesh
from wmtp_torch_mps import reference as torch_reference
from wmtp_torch_mps.device import find_device
from wmtp_torch_mps.model import named

SPLITS = {
    name: split_of([9, 16, 7, 12, 16, 3, 11] * 3, vocab=31, name=name, seed=seed)
    for seed, name in enumerate(("train", "validation", "reference"))
}


def config_of(rows, accumulation, **model):
    cfg = small_config("rho1-weighted", heads=2)
    return replace(
        cfg,
        model=replace(cfg.model, **model),
        data=replace(cfg.data, batch_size=rows),
        train=replace(cfg.train, accumulation=accumulation),
        optimizer=OptimizerConfig(schedule="cosine", epsilon=1e-6),
        reference=ReferenceConfig(epochs=2, lr=1e-3),
    )


def reference_of(*batch, **model):
    cfg = config_of(*batch, **model)
    return untrained_reference(cfg, load_tokenizer("bytes"), SPLITS, None)


def in_jax(frozen):
    cfg = frozen.cfg
    mesh = make_mesh(cfg)
    params = jax_reference.train_reference(cfg, SPLITS["reference"], mesh)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(params)])


def in_torch(frozen):
    split, device = SPLITS["reference"], find_device(frozen.cfg)
    model = torch_reference.train_reference(frozen.cfg, split, device)
    return np.concatenate([p.detach().numpy().ravel() for p in named(model).values()])


@pytest.mark.parametrize("train", shorter([in_jax, in_torch], [in_torch]))
def test_accumulation_does_not_change_the_reference(train):
    whole, halves = train(reference_of(4, 1)), train(reference_of(2, 2))
    assert gap(whole, halves) < 1e-5
    assert gap(whole, train(reference_of(2, 1))) > 1e-3


def test_its_steps_and_its_name_follow_the_global_batch():
    """Signals of a cache are found again just where the reference would be the same."""

    def of(*batch, **model):
        frozen = reference_of(*batch, **model)
        steps = reference_batches(frozen.cfg, SPLITS["reference"])[1]
        return steps, frozen.identity

    assert of(4, 2) == of(8, 1) == of(2, 4) != of(4, 1)
    # Dropout is drawn anew for each micro-batch.
    assert of(4, 2, dropout=0.1)[1] != of(8, 1, dropout=0.1)[1]
