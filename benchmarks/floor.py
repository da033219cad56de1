"""The floor: FLOPs of the products that must be done, at the rate of this machine.

Axes: B rows, L positions, K heads, R rows of a head, D width, V vocabulary.
"""

import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from shared.batches import Batch
from shared.config import Config
from shared.model_config import ModelConfig
from shared.targets import target_mask


def matrix_numbers(model: ModelConfig) -> int:
    """Numbers in the trunk's matrices, each one multiply-add a position."""
    attention = model.width * model.H * (2 * model.num_attention_heads)
    attention += model.width * model.H * 2 * model.kv_heads
    ffn = (3 if model.is_rotary else 2) * model.width * model.F
    return model.num_layers * (attention + ffn)


def trunk_flops(model: ModelConfig, lengths: np.ndarray) -> float:
    """Of one forward pass over documents of these lengths.

    2 for each number of the matrices and position; 4 H for each pair of positions that
    attend (causal, within the document) in each attention head and layer.
    """
    n = np.asarray(lengths, np.float64)
    pairs = float(np.sum(n * (n + 1) / 2))
    heads = model.num_layers * model.num_attention_heads
    return 2.0 * matrix_numbers(model) * float(n.sum()) + 4.0 * model.H * heads * pairs


def step_flops(cfg: Config, batch: Batch) -> float:
    """Of the products that a training step over `[A, B, L]` cannot do without.

    Trunk: three times its forward pass. Linear heads: 6 D V for each row that weighs
    something. A row that rho1 scores and then drops costs 2 D V; of one that it keeps
    the loss uses the product again.
    """
    document_RL = batch.document_BL.reshape(-1, batch.document_BL.shape[-1])
    target_RL = batch.target_BL.reshape(document_RL.shape)
    lengths = [np.bincount(row[row > 0])[1:] for row in document_RL]
    total = 3.0 * trunk_flops(cfg.model, np.concatenate([[0], *lengths]))
    mask_RLK = target_mask(document_RL, target_RL, num_heads=cfg.heads.count)
    targets_K = np.asarray(mask_RLK).sum(axis=(0, 1))
    dropped = cfg.weighting.skip_fraction if cfg.rule == "skip" else 0.0
    row = 2.0 * cfg.model.width * cfg.model.vocab_size
    total += 3 * row * (1 - dropped) * float(targets_K.sum())
    if cfg.algo.startswith("rho1"):
        total += row * dropped * float(targets_K[0])
    return total


def products(cfg: Config, rows: int) -> Callable[[], float]:
    """Runs a head's three products over so many rows and returns their FLOPs.

    Taking turns with what is measured, it tells the rate of the machine at that time.
    """
    D, V = cfg.model.width, cfg.model.vocab_size
    x_RD = jnp.ones((rows, D), cfg.machine.dtype)
    w_VD = jnp.ones((V, D), cfg.machine.dtype)

    @jax.jit
    def compute(x_RD, w_VD):
        logits_RV = x_RD @ w_VD.T
        return logits_RV @ w_VD, logits_RV.T @ x_RD

    def run() -> float:
        jax.block_until_ready(compute(x_RD, w_VD))
        return 6.0 * rows * D * V

    return run


def share_of_floor(
    seconds: list[float], flops: list[float], floor: list[float], of_floor: list[float]
) -> float:
    """Median over rounds of the time that the FLOPs need over the time they took.

    Args:
      seconds, flops: of each call.
      floor, of_floor: the same of the products in the same rounds.
    """
    rounds = zip(seconds, flops, floor, of_floor, strict=True)
    return statistics.median(n / (m / t) / s for s, n, t, m in rounds)
