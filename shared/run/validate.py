"""The validation split: unweighted nll of every head over every target."""

from collections.abc import Callable
from typing import Any

import numpy as np

from shared import weighting
from shared.config.fields import Config
from shared.data.batches import Batch


def validate(
    params: Any, batches: list[Batch], eval_step: Callable[..., Any], cfg: Config
) -> dict[str, float]:
    """`eval_nll_head_k` in nats; for the critic also `eval_explained_variance`.

    `eval_nll_head_0` is what is called validation nll everywhere.
    """
    results = [
        eval_step(params, batch) for batch in batches
    ]  # dispatched, not waited for
    nll_K = sum(np.asarray(r["nll_K"], np.float64) for r in results)
    count_K = sum(np.asarray(r["count_K"], np.float64) for r in results)
    mean_K = nll_K / np.maximum(count_K, 1)
    metrics = {f"eval_nll_head_{k}": float(mean_K[k]) for k in range(cfg.heads.count)}
    if cfg.algo == "critic":
        metrics["eval_explained_variance"] = _explained_variance(results, batches)
    return metrics


def _explained_variance(results: list[dict[str, Any]], batches: list[Batch]) -> float:
    value_N, return_N = (
        np.concatenate(
            [
                np.asarray(result[name])[weighting.read_positions(batch.target_BL)]
                for result, batch in zip(results, batches, strict=True)
            ]
        ).astype(np.float64)
        for name in ("value_BL", "return_BL")
    )
    everything = np.ones(value_N.shape, bool)
    return float(weighting.explained_variance(return_N, value_N, everything))
