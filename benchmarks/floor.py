"""The floor: FLOPs of the products that must be done, at the rate of this machine.

Axes: L positions, K heads, R rows, D width, V vocabulary.
"""

import statistics
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from shared.config.fields import Config
from shared.data.batches import Batch
from shared.targets import target_mask
from shared.tracking import flops


def step_flops(cfg: Config, batch: Batch) -> float:
    """Of a training step over `[A, B, L]`, with the rows that its rule keeps."""
    document_RL = batch.document_BL.reshape(-1, batch.document_BL.shape[-1])
    target_RL = batch.target_BL.reshape(document_RL.shape)
    mask_RLK = target_mask(document_RL, target_RL, num_heads=cfg.heads.count)
    kept = 1 - (cfg.weighting.skip_fraction if cfg.rule == "skip" else 0.0)
    rows_K = kept * np.asarray(mask_RLK).sum(axis=(0, 1))
    return flops.step_flops(cfg, batch, list(rows_K))


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
