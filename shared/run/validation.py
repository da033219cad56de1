"""The validation split: unweighted nll of every head, how good the values are."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from shared import weighting
from shared.algorithms import needs_nll
from shared.config.fields import Config
from shared.data.batches import Batch

VALIDATION_NLL = "eval_nll_head_0"


def eval_metrics(
    results: list[dict[str, Any]], batches: list[Batch], cfg: Config
) -> dict[str, float]:
    """`eval_nll_head_k` in nats over every target; of values what they explain.

    A head without any target has no nll, values without any explain nothing.

    Args:
      results: of each batch `nll_K` and `count_K`, and `value_BL` and `return_BL` where
        a value head is trained.
    """
    nll_K = np.sum([np.asarray(r["nll_K"], np.float64) for r in results], axis=0)
    count_K = np.sum([np.asarray(r["count_K"], np.float64) for r in results], axis=0)
    metrics = {
        f"eval_nll_head_{k}": float(nll_K[k] / count_K[k])
        for k in range(cfg.heads.count)
        if count_K[k] > 0
    }
    if cfg.algorithm.value_head and metrics:
        pairs = [(result["value_BL"], result["return_BL"]) for result in results]
        found = value_errors(*read_values(pairs, batches))
        metrics["eval_explained_variance"] = found[1]
    return metrics


def validation_nll(metrics: dict[str, float], cfg: Config) -> float | None:
    """What early stopping follows: head 0's nll, or where it never moves the others'.

    With `heads.only` it is the mean of those of heads k >= 1. None without any target.
    """
    if not cfg.heads.only:
        return metrics.get(VALIDATION_NLL)
    others = [metrics.get(f"eval_nll_head_{k}") for k in range(1, cfg.heads.count)]
    found = [nll for nll in others if nll is not None]
    return sum(found) / len(found) if found else None


def is_reference(
    results: list[dict[str, Any]], batches: list[Batch], cfg: Config
) -> bool:
    """Whether the reference gives every batch the nll that the model itself gives it.

    Two models that differ do not agree on the sum of any batch, let alone of all.

    Args:
      results: as of `eval_metrics`.
    """
    if not needs_nll(cfg) or any("ref_nll" not in x.signals for x in batches):
        return False
    own = [float(np.asarray(result["nll_K"])[0]) for result in results]
    others = [float(np.sum(x.signals["ref_nll"][x.target_BL])) for x in batches]
    rounding = 1e-5 if cfg.machine.dtype == "float32" else 1e-3
    return bool(np.allclose(own, others, rtol=rounding, atol=0))


def require_finite_eval(metrics: dict[str, float], step: int) -> None:
    """Raises FloatingPointError for a model whose numbers on validation are not."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            said = name.removeprefix("eval_").replace("nll_head_", "nll of head ")
            raise FloatingPointError(
                f"validation {said} is {value} after step {step}, which is not saved"
            )


def value_errors(value_N: np.ndarray, return_N: np.ndarray) -> tuple[float, float]:
    """Mean squared error and explained variance of values against fixed returns."""
    value_N, return_N = value_N.astype(np.float64), return_N.astype(np.float64)
    everything = np.ones(value_N.shape, bool)
    with np.errstate(invalid="ignore", over="ignore"):  # of a head that has diverged
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
