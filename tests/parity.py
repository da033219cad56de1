"""Both backends on the same MBPP minis, from the same parameters, side by side.

Axes: B rows, L positions, K heads, V vocabulary, D width.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import torch

from shared import algorithms
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.huggingface.tree import to_tensors
from tests import oracle
from tests.minis import HEAD_WEIGHT, K, cast, first, gap, minis
from tests.torch_models import start_of, torch_model
from wmtp_jax import critic as jax_critic
from wmtp_jax import heads as jax_heads
from wmtp_jax import loss as jax_loss
from wmtp_jax import optimizer as jax_optimizer
from wmtp_jax import sharding as jax_sharding
from wmtp_jax import state as jax_state
from wmtp_jax import step as jax_step
from wmtp_torch_mps import loss as torch_loss
from wmtp_torch_mps import state as torch_state
from wmtp_torch_mps.device import to_device
from wmtp_torch_mps.heads import head_states
from wmtp_torch_mps.model import named
from wmtp_torch_mps.step import divide, train_step


def jax_arguments(cfg: Config, layout: str):
    """Parameters and batch on JAX's device, in the config's dtype."""
    dtype = cfg.machine.dtype
    params = start_of(cfg)
    params = jax.tree.map(lambda x: jnp.asarray(cast(x, dtype)), params)
    return params, first(layout, dtype).changed(jnp.asarray)


@cache
def in_jax(cfg: Config, layout: str) -> dict:
    """What the JAX trainer makes of the first micro-batch, as NumPy: to be read."""

    def run(params, batch):
        outputs, nll_BLK, mask_BLK = jax_loss.run_heads(params, batch, cfg)
        value_BL = None
        if cfg.algo == "critic":
            value_BL = jax_critic.read_values(params["value"], outputs.hidden_BLD)
        known = known_of(nll_BLK[:, :, 0], value_BL, batch, cfg)
        score_BL = algorithms.score_tokens(known, cfg)
        grad_L, grad_V, sums, _ = jax_step.gradients(params, batch, cfg, None)
        return {
            "states": jax_heads.head_states(params, outputs, cfg),
            "unembeddings": jax_heads.unembeddings(params),
            "nll_BLK": nll_BLK,
            "mask_BLK": mask_BLK,
            "value_BL": value_BL,
            "score_BL": score_BL,
            "w_BLK": algorithms.weigh(score_BL, mask_BLK, known, cfg),
            "loss": sums.loss_sum / sums.weight,
            "gradient": jax_step.divide(grad_L, grad_V, sums, cfg),
        }

    with jax.enable_x64(cfg.machine.dtype == "float64"):
        return jax.device_get(jax.jit(run)(*jax_arguments(cfg, layout)))


def known_of(nll_BL, value_BL, batch: Batch, cfg: Config) -> algorithms.Known:
    """What the tokens are scored by, from nll and values of either backend."""
    member_BLS, values = algorithms.members_of(batch), None
    if value_BL is not None:
        gae_lambda = cfg.critic.gae_lambda
        values = algorithms.value_targets(
            value_BL, batch, member_BLS, cfg, gae_lambda=gae_lambda
        )
    return algorithms.Known(
        batch=batch, member_BLS=member_BLS, nll_BL=nll_BL, values=values
    )


def in_torch(cfg: Config, layout: str, device: str = "cpu") -> dict:
    """What the torch trainer makes of the first micro-batch, as NumPy."""
    model = torch_model(cfg, start_of(cfg), device)
    batch = to_device(first(layout, cfg.machine.dtype), torch.device(device))
    value_gradients: dict = {}
    sums, _ = torch_loss.add_gradients(model, batch, value_gradients)
    divide(named(model), value_gradients, sums, cfg)
    with torch.no_grad():
        outputs = torch_loss.run_trunk(model, batch)
        targets_BLK, mask_BLK = torch_loss.targets_of(batch, cfg)
        states = head_states(model, outputs)
        nll_BLK, _ = torch_loss.nll_heads(model, states, targets_BLK, mask_BLK)
        value_BL = (
            model.value_head(outputs.hidden_BLD) if cfg.algo == "critic" else None
        )
        known = known_of(nll_BLK[:, :, 0], value_BL, batch, cfg)
        score_BL = algorithms.score_tokens(known, cfg)
    found = {
        "score_BL": score_BL,
        "w_BLK": algorithms.weigh(score_BL, mask_BLK, known, cfg),
        "nll_BLK": nll_BLK,
        "loss": sums.loss_sum / sums.weight,
    }
    found = {name: x.cpu().numpy() for name, x in found.items()}
    gradient = {
        n: p.grad.cpu().numpy().astype(np.float64) for n, p in named(model).items()
    }
    return found | {"gradient": gradient}


def by_name(tree, cfg: Config) -> dict[str, np.ndarray]:
    """A tree under the names of its tensors, in float64: as two float32 parts each."""
    high = jax.tree.map(lambda x: np.asarray(x, np.float32), tree)
    low = jax.tree.map(lambda x, h: np.asarray(x - h.astype(x.dtype), "f4"), tree, high)
    parts = [to_tensors(part, cfg.model, cfg.heads) for part in (high, low)]
    return {name: x.astype(np.float64) + parts[1][name] for name, x in parts[0].items()}


def in_oracle(cfg: Config, found: dict, batch: Batch) -> dict:
    """Scores, weights, nll and loss by the oracle, from one backend's hidden states."""
    nll_BLK = oracle_nll(found, batch)
    document_BL, target_BL = batch.document_BL, batch.target_BL
    _, mask = oracle.targets_and_mask(batch.tokens_BL, document_BL, target_BL, K)
    if cfg.algo == "baseline":
        score_BL = np.zeros(target_BL.shape)
    elif cfg.algo == "critic":
        reward_BL = oracle.token_rewards(
            rewards_of(batch), target_BL, document_BL, cfg.critic.reward
        )
        td_error_BL = oracle.td_errors(
            reward_BL, found["value_BL"], target_BL, document_BL, cfg.critic.discount
        )
        score_BL = oracle.z_score(td_error_BL, target_BL, document_BL)
    else:
        own_BL = np.zeros(target_BL.shape)
        own_BL[:, 1:] = nll_BLK[:, :-1, 0]
        score_BL = oracle.excess_loss(
            own_BL, batch.signals["ref_nll"], target_BL, "signed", 0
        )
    of = cfg.weighting
    if cfg.rule == "uniform":
        w_BLK = oracle.uniform_weights(mask)
    elif cfg.rule == "skip":
        kept = oracle.skip_weights(
            score_BL, target_BL, document_BL, K, of.skip_fraction
        )
        w_BLK = np.asarray(kept) * mask
    else:
        w_BLK = oracle.soft_weights(
            oracle.shift_to_heads(score_BL, K),
            mask,
            document_BL,
            of.temperature,
            of.weight_floor,
            of.weight_ceiling,
            of.scope,
        )
    *_, loss = oracle.weighted_loss(nll_BLK, w_BLK, HEAD_WEIGHT)
    return {"score_BL": score_BL, "w_BLK": w_BLK, "nll_BLK": nll_BLK, "loss": loss}


def oracle_nll(found: dict, batch: Batch) -> np.ndarray:
    """`nll_BLK` from hidden states and unembeddings, with all the logits at once."""
    states_KBLD = np.asarray(found["states"], np.float64)
    shared_VD, own_KVD = (
        None if x is None else np.asarray(x, np.float64) for x in found["unembeddings"]
    )
    targets_BLK, _ = oracle.targets_and_mask(
        batch.tokens_BL, batch.document_BL, batch.target_BL, K
    )
    nll = []
    for k in range(K):
        matrix_VD = shared_VD if k == 0 or own_KVD is None else own_KVD[k - 1]
        logits_BLV = states_KBLD[k] @ matrix_VD.T
        chosen_BL1 = np.take_along_axis(
            logits_BLV, np.asarray(targets_BLK)[:, :, k, None].astype(int), axis=2
        )
        top_BL1 = logits_BLV.max(axis=2, keepdims=True)
        total_BL1 = np.exp(logits_BLV - top_BL1).sum(axis=2, keepdims=True)
        nll.append((top_BL1 + np.log(total_BL1) - chosen_BL1)[:, :, 0])
    return np.stack(nll, axis=2)


def rewards_of(batch: Batch) -> list[list[float]]:
    """Reward of each document of each row, by its number; 0 for padding."""
    return [
        [0.0] + [float(row[here == d][0]) for d in range(1, here.max() + 1)]
        for row, here in zip(batch.signals["reward"], batch.document_BL, strict=True)
    ]


def trajectories(cfg: Config, steps: int) -> dict[str, float]:
    """The same steps in both backends; the largest differences at any and at the end.

    `metrics`: of everything that a step logs. `parameters`: after the last step, over
    the largest number of each parameter.

    Adam divides a gradient by its own size, so where it is rounding alone (a bias of
    all keys, an unlikely token's row), rounding decides. Its epsilon is therefore above
    the rounding of these gradients, and far below their size.
    """
    cfg = replace(cfg, optimizer=replace(cfg.optimizer, epsilon=1e-6))
    batches = minis("packed", steps)
    params = start_of(cfg)
    tx = jax_optimizer.make_optimizer(cfg, steps)
    state = jax_state.init_state(cfg, jax.tree.map(jnp.asarray, params), tx)
    mesh = jax_sharding.make_mesh(cfg)
    state = jax.device_put(state, jax_sharding.replicated(mesh))
    jitted, _ = jax_step.make_train_step(cfg, tx, steps, mesh)
    other = torch_state.init_state(torch_model(cfg, params))
    worst = 0.0
    for batch in batches:
        state, metrics = jitted(state, batch)
        other, theirs = train_step(other, batch, steps)
        assert metrics.keys() == theirs.keys()
        worst = max(worst, *(gap(metrics[n], float(theirs[n])) for n in metrics))
    ours = by_name(jax.device_get(state.params), cfg)
    found = {n: p.detach().numpy() for n, p in named(other.params).items()}
    gaps = {name: gap(x, found[name]) for name, x in ours.items()}
    return {"metrics": worst, "parameters": max(gaps.values())}
