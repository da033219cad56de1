"""The validation split: unweighted nll of every head, how good the values are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shared import weighting
from shared.config.fields import Config
from shared.data.batches import Batch


def eval_metrics(
    results: list[dict[str, Any]], batches: list[Batch], cfg: Config
) -> dict[str, float]:
    """`eval_nll_head_k` in nats over every target; of values what they explain.

    Args:
      results: of each batch `nll_K` and `count_K`, and `value_BL` and `return_BL` where
        a value head is trained.
    """
    nll_K = sum(np.asarray(r["nll_K"], np.float64) for r in results)
    count_K = sum(np.asarray(r["count_K"], np.float64) for r in results)
    mean_K = nll_K / np.maximum(count_K, 1)
    metrics = {f"eval_nll_head_{k}": float(mean_K[k]) for k in range(cfg.heads.count)}
    if cfg.algorithm.value_head:
        pairs = [(result["value_BL"], result["return_BL"]) for result in results]
        found = value_errors(*read_values(pairs, batches))
        metrics["eval_explained_variance"] = found[1]
    return metrics


def value_errors(value_N: np.ndarray, return_N: np.ndarray) -> tuple[float, float]:
    """Mean squared error and explained variance of values against fixed returns."""
    value_N, return_N = value_N.astype(np.float64), return_N.astype(np.float64)
    everything = np.ones(value_N.shape, bool)
    explained = weighting.explained_variance(return_N, value_N, everything)
    return float(np.mean((value_N - return_N) ** 2)), float(explained)


def read_values(
    pairs: Sequence[tuple[Any, Any]], batches: list[Batch]
) -> tuple[np.ndarray, np.ndarray]:
    """`(value_N, return_N)` at the positions that values are read from.

    Args:
      pairs: `(value_BL, return_BL)` of each batch, the returns fixed (gae_lambda 1).
    """
    read = [weighting.read_positions(batch.target_BL) for batch in batches]
    value_N, return_N = (
        np.concatenate([np.asarray(p[of])[r] for p, r in zip(pairs, read, strict=True)])
        for of in (0, 1)
    )
    return value_N, return_N
