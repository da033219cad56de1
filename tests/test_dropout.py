"""Where both trainers drop: on embeddings, and on both branches of every block.

A `block` head, a copy of the last layer, drops where that layer does; no other head
drops anything. With a dropout of almost 1 nothing is left of what is dropped.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.cases import shorter_rows
from tests.minis import HEAD_TYPES, config
from tests.small import small_batch
from tests.torch_models import start_of, torch_model
from wmtp_jax import heads as jax_heads
from wmtp_jax import loss as jax_loss
from wmtp_jax import step as jax_step
from wmtp_torch_mps import heads as torch_heads
from wmtp_torch_mps import loss as torch_loss
from wmtp_torch_mps import step as torch_step
from wmtp_torch_mps.device import to_device

BATCH = small_batch(seed=4, lengths=[[9, 6], [12]]).changed(np.asarray)
ALL = 1 - 1e-7


def config_of(head_type, dropout):
    cfg = config("critic", head_type, "default")
    return replace(cfg, model=replace(cfg.model, dropout=dropout))


class Jax:
    def __init__(self, cfg):
        self.cfg = cfg
        self.params = jax.tree.map(jnp.asarray, start_of(cfg))
        self.batch = BATCH.changed(jnp.asarray)

    def states(self, *, trunk=False, heads=False):
        """Of the trunk before its norm, and of each head; what may drop is named."""

        @jax.jit
        def run(params, batch, key):
            trunk_key = key if trunk else None
            outputs = jax_loss.run_trunk(params, batch, self.cfg, trunk_key)
            if heads and not trunk:
                outputs = replace(outputs, dropout_key=key)
            states = jax_heads.head_states(params, outputs, self.cfg)
            return outputs.residual_BLD, *states

        return jax.device_get(run(self.params, self.batch, jax.random.key(3)))

    def evaluated(self):
        step = jax.jit(partial(jax_step.eval_step, cfg=self.cfg))
        return jax.device_get(step(self.params, self.batch))


class Torch:
    def __init__(self, cfg):
        self.model = torch_model(cfg, start_of(cfg))
        self.batch = to_device(BATCH, torch.device("cpu"))

    @torch.no_grad()
    def states(self, *, trunk=False, heads=False):
        torch.manual_seed(3)
        outputs = torch_loss.run_trunk(self.model, self.batch, dropping=trunk)
        self.model.train(heads)
        states = torch_heads.head_states(self.model, outputs)
        return [x.numpy() for x in (outputs.residual_BLD, *states)]

    def evaluated(self):
        return torch_step.eval_step(self.model, self.batch)


both = pytest.mark.parametrize("trainer", [Jax, Torch])
# The three others are alike to dropout, and torch has each of them here.
JAX_TYPES = ["linear", "block"]
TYPED = [(Jax, x) for x in HEAD_TYPES] + [(Torch, x) for x in HEAD_TYPES]
NORMAL = [(of, x) for of, x in TYPED if of is Torch or x in JAX_TYPES]
typed = pytest.mark.parametrize("trainer, head_type", shorter_rows(TYPED, NORMAL))


@typed
def test_embeddings_and_branches_of_blocks_are_dropped(trainer, head_type):
    cfg = config_of(head_type, ALL)
    params = start_of(cfg)
    residual, head_0, *others = trainer(cfg).states(trunk=True, heads=True)
    assert not residual.any()
    bias = params["trunk"]["norm"]["bias"]
    np.testing.assert_allclose(head_0, np.broadcast_to(bias, head_0.shape), rtol=1e-6)
    for k, state in enumerate(others):
        if head_type == "block":
            right = params["heads"]["norms"]["bias"][k]
            right = np.broadcast_to(right, state.shape)
            np.testing.assert_allclose(state, right, rtol=1e-6)
        else:
            assert np.ptp(state, axis=(0, 1)).max() < 1e-6  # of head_0 alone


@typed
def test_block_heads_alone_drop_and_only_their_branches(trainer, head_type):
    run = trainer(config_of(head_type, ALL))
    plain, dropped = run.states(), run.states(heads=True)
    for found, right in zip(dropped[:2], plain[:2], strict=True):
        np.testing.assert_array_equal(found, right)
    for k, (found, right) in enumerate(zip(dropped[2:], plain[2:], strict=True)):
        if head_type == "block":  # what it reads, through its own norm
            x, norm = plain[0], start_of(config_of(head_type, ALL))["heads"]["norms"]
            mean, deviation = (f(x, axis=-1, keepdims=True) for f in (np.mean, np.std))
            right = (x - mean) / np.sqrt(deviation**2 + 1e-5)
            right = right * norm["scale"][k] + norm["bias"][k]
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


@both
def test_each_head_draws_for_itself(trainer):
    cfg = config_of("block", 0.5)
    run, start = trainer(cfg), start_of(cfg)["heads"]
    for tree in (start["blocks"]["down"], start["norms"]):
        assert all(x.shape[0] == 2 for x in jax.tree.leaves(tree))
    plain, dropped = run.states(), run.states(heads=True)
    moved = [x - y for x, y in zip(dropped[2:], plain[2:], strict=True)]
    assert all(np.abs(x).max() > 1e-2 for x in moved)
    apart = np.corrcoef(*(x.ravel() for x in moved))[0, 1]
    assert abs(apart) < 0.3


@both
def test_evaluation_and_frozen_passes_drop_nothing(trainer):
    found, right = (trainer(config_of("block", p)).evaluated() for p in (0.9, 0.0))
    for name, x in right.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-6)
