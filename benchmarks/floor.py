"""The floor: FLOPs of the products that must be done, at the rate of this machine.

Which rate a machine has depends on who multiplies: XLA, torch and NumPy bring libraries
of their own. All are asked; the floor of a step is that of the fastest.

Axes: L positions, K heads, R rows, D width, V vocabulary.
"""

import math
import statistics
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

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


def products_torch(cfg: Config, rows: int, dtype: str) -> Callable[[], float]:
    """The same by torch, on the CPU."""
    import torch

    kind = getattr(torch, dtype)
    x_RD = torch.ones((rows, cfg.model.width), dtype=kind)
    w_VD = torch.ones((cfg.model.vocab_size, cfg.model.width), dtype=kind)
    return _in_turn(x_RD, w_VD)


def products_numpy(cfg: Config, rows: int) -> Callable[[], float]:
    """The same by NumPy, in float32."""
    x_RD = np.ones((rows, cfg.model.width), np.float32)
    return _in_turn(x_RD, np.ones((cfg.model.vocab_size, cfg.model.width), np.float32))


def _in_turn(x_RD: Any, w_VD: Any) -> Callable[[], float]:
    def run() -> float:
        logits_RV = x_RD @ w_VD.T
        _ = logits_RV @ w_VD, logits_RV.T @ x_RD
        return 6.0 * x_RD.shape[0] * math.prod(w_VD.shape)

    return run


def libraries(
    cfg: Config, rows: int, dtypes: Collection[str]
) -> dict[tuple[str, str], Callable[[], float]]:
    """The products by `(library, dtype)`: everything that a floor is taken from."""
    made: dict[tuple[str, str], Callable[[], float]] = {}
    for dtype in dtypes:
        machine = replace(cfg.machine, dtype=dtype)
        made["jax", dtype] = products(replace(cfg, machine=machine), rows)
        made["torch", dtype] = products_torch(cfg, rows, dtype)
    if "float32" in dtypes:
        made["numpy", "float32"] = products_numpy(cfg, rows)
    return made


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
