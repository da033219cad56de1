"""`heads.trunk_gradient_scale` in both trainers, against plain differentiation.

Heads k >= 1 read `s h + (1 - s) stop(h)`, and so do they the unembedding they share.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from shared.targets import target_mask
from tests.cases import shorter, shorter_rows
from tests.minis import HEAD_WEIGHT, config, gap
from tests.parity import by_name
from tests.small import small_batch
from tests.torch_models import start_of, torch_model
from wmtp_jax import heads as jax_heads
from wmtp_jax import loss as jax_loss
from wmtp_jax import step as jax_step
from wmtp_torch_mps import loss as torch_loss
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.model import group_of, named
from wmtp_torch_mps.step import divide

BATCH = small_batch(seed=4, lengths=[[9, 6], [12]]).changed(np.asarray)


def config_of(head_type, scale, *, algo="baseline", family="gpt2", weight=HEAD_WEIGHT):
    cfg = config(algo, head_type, "default", family=family)
    heads = replace(cfg.heads, trunk_gradient_scale=scale, weight=weight)
    return replace(cfg, heads=heads)


def in_jax(cfg):
    def gradient(params, batch):
        grad_L, grad_V, sums, _ = jax_step.gradients(params, batch, cfg, None)
        return jax_step.divide(grad_L, grad_V, sums, cfg)

    batch = BATCH.changed(jnp.asarray)
    return by_name(jax.jit(gradient)(start_of(cfg), batch), cfg)


def in_torch(cfg):
    model = torch_model(cfg, start_of(cfg))
    sums, _ = torch_loss.add_gradients(model, to_device(BATCH, torch.device("cpu")), {})
    divide(named(model), {}, sums, cfg)
    return {name: p.grad.numpy() for name, p in named(model).items()}


@cache
def oracle(head_type, family):
    """The gradient of the mean over all targets, as a function of the scale."""
    cfg = config_of(head_type, 1.0, family=family)

    def loss(params, s):
        def read(x):
            return s * x + (1 - s) * jax.lax.stop_gradient(x)

        outputs = jax_loss.run_trunk(params, BATCH, cfg)
        hidden_BLD, residual_BLD = outputs.hidden_BLD, outputs.residual_BLD
        seen = replace(
            outputs, hidden_BLD=read(hidden_BLD), residual_BLD=read(residual_BLD)
        )
        shared_VD, own_KVD = jax_heads.unembeddings(params)
        targets_BLK, _ = jax_loss.targets_of(BATCH, cfg)
        mask_BLK = target_mask(BATCH.document_BL, BATCH.target_BL, num_heads=3)
        total = weight = 0.0
        for k, of_head in enumerate(HEAD_WEIGHT):
            state_BLD, matrix_VD = hidden_BLD, shared_VD
            if k > 0:
                head = jax.tree.map(lambda x, k=k: x[k - 1], params["heads"])
                function = jax_heads.HEAD_FUNCTIONS[head_type].state
                state_BLD = function(head, seen, cfg, None)
                matrix_VD = read(shared_VD) if own_KVD is None else own_KVD[k - 1]
            log_p_BLV = jax.nn.log_softmax(state_BLD @ matrix_VD.T)
            target_BL1 = targets_BLK[:, :, k, None]
            nll_BL1 = -jnp.take_along_axis(log_p_BLV, target_BL1, axis=2)
            mask_BL = mask_BLK[:, :, k]
            total += of_head * jnp.sum(nll_BL1[:, :, 0] * mask_BL)
            weight += of_head * jnp.sum(mask_BL)
        return total / weight

    return jax.jit(jax.grad(loss))


TYPED = [("residual", "gpt2"), ("linear", "gpt2")]  # the first has medusa's operations
TYPED += [("medusa", "qwen2"), ("block", "llama")]


@pytest.mark.parametrize("scale", shorter([0.0, 0.5, 1.0], [0.5]))
@pytest.mark.parametrize("head_type, family", shorter_rows(TYPED, TYPED[1:]))
def test_both_trainers_scale_all_that_heads_share_with_the_trunk(
    head_type, family, scale
):
    cfg = config_of(head_type, scale, family=family)
    right = by_name(oracle(head_type, family)(start_of(cfg), scale), cfg)
    for found in (in_jax(cfg), in_torch(cfg)):
        assert found.keys() == right.keys()
        for name, x in right.items():
            if not name.endswith("c_attn.bias"):  # of the keys: rounding alone
                assert gap(found[name], x) < 1e-4, name


def test_where_head_0_is_scored_first():
    """Its softmax is kept for its gradient then, and the other heads' rows follow."""
    cfg = config_of("residual", 0.25, algo="rho1-weighted")
    ours, theirs = in_jax(cfg), in_torch(cfg)
    name = "transformer.wte.weight"
    assert gap(ours[name], theirs[name]) < 1e-4
    whole = in_jax(config_of("residual", 1.0, algo="rho1-weighted"))
    assert gap(ours[name], whole[name]) > 1e-2


@pytest.mark.parametrize(
    "head_type", shorter(["residual", "medusa", "block"], ["block"])
)
@pytest.mark.parametrize("gradient", [in_jax, in_torch])
def test_at_0_the_trunk_learns_nothing_from_the_heads(gradient, head_type):
    found = gradient(config_of(head_type, 0.0, weight=(0.0, 1.0, 1.0)))
    for name, x in found.items():
        assert np.any(x) == (group_of(name) == "heads"), name
