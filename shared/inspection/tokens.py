"""What a model in training makes of each token of a document: nll, score, weight.

    row of a batch, nll_BLK and value_BL of `eval_step` -> score_BL -> w_BLK -> by token

The functions are those of a step (`shared/algorithms.py`), on NumPy arrays. An
evaluation gives their inputs anyway, so that a look costs no pass of its own.

Axes: L positions, K heads, T tokens of the document.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared import algorithms, weighting
from shared.axes import shift_to_tokens
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.targets import target_mask


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """One document; NaN wherever a token is no target, or of no such head.

    Attributes:
      weight_TK: of token j as the target of head k, which reads up to token j - 1 - k.
      nll_TK: of the same, nats.
      clipped_TK: -1 where the weight is at its floor, 1 at its ceiling, else 0.
      numbers: what else the algorithm knows of a token, by name, `[T]`: `ref_nll`,
        `reward`, `value` (before the token), `td_error` or `advantage`, `score`.
      metrics: what a step on this document alone logs of weights and nll.
    """

    weight_TK: np.ndarray
    nll_TK: np.ndarray
    clipped_TK: np.ndarray
    numbers: dict[str, np.ndarray]
    metrics: dict[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether the model gave every target a finite nll, and the critic a value."""
        arrays = (self.nll_TK, self.weight_TK, *self.numbers.values())
        return not any(np.isinf(x).any() for x in arrays) and all(
            math.isfinite(x) for x in self.metrics.values()
        )


def weigh_row(
    batch: Batch, row: int, result: Mapping[str, Any], cfg: Config
) -> Weighed:
    """What `eval_step` found of one row, which holds one document from its start on.

    Args:
      batch: its NumPy rows, with the signals of the algorithm and the controls' noise.
      result: `nll_BLK`, and `value_BL` where a value head is trained.
    """
    one = batch.changed(lambda x: x[row : row + 1])
    nll_BLK = np.asarray(result["nll_BLK"])[row : row + 1]
    mask_BLK = target_mask(one.document_BL, one.target_BL, num_heads=cfg.heads.count)
    member_BLS, values, value_BL = algorithms.members_of(one), None, None
    if cfg.algorithm.value_head:
        value_BL = np.asarray(result["value_BL"])[row : row + 1]
        gae_lambda = cfg.critic.gae_lambda
        values = algorithms.value_targets(
            value_BL, one, member_BLS, cfg, gae_lambda=gae_lambda
        )
    known = algorithms.Known(
        batch=one, member_BLS=member_BLS, nll_BL=nll_BLK[:, :, 0], values=values
    )
    score_BL = algorithms.score_tokens(known, cfg)
    w_BLK = algorithms.weigh(score_BL, mask_BLK, known, cfg)
    nothing = (np.zeros((), np.float32),) * 2
    added = algorithms.add_up(nll_BLK, w_BLK, mask_BLK, nothing, cfg)
    length = int((one.document_BL > 0).sum())

    def of_targets(x_BL: np.ndarray) -> np.ndarray:
        return np.where(one.target_BL, x_BL, np.nan)[0, :length]

    kept_BLK = algorithms.counted(mask_BLK, cfg)
    weight_TK = _by_token(w_BLK, kept_BLK, length)
    return Weighed(
        weight_TK=weight_TK,
        nll_TK=_by_token(nll_BLK, mask_BLK, length),
        clipped_TK=_clipped(weight_TK, cfg),
        numbers={
            name: of_targets(x_BL)
            for name, x_BL in _numbers(known, value_BL, score_BL, cfg).items()
        },
        metrics={n: float(x) for n, x in algorithms.step_metrics(*added, cfg).items()},
    )


def _numbers(
    known: algorithms.Known, value_BL: np.ndarray | None, score_BL: np.ndarray, cfg: Any
) -> dict[str, np.ndarray]:
    """What the algorithm knows of the tokens, in the order in which it comes to it."""
    batch, found = known.batch, {}
    if "ref_nll" in batch.signals:
        found["ref_nll"] = batch.signals["ref_nll"]
    if value_BL is not None and known.values is not None:
        found["reward"] = weighting.token_rewards(
            batch.signals["reward"],
            batch.target_BL,
            known.member_BLS,
            reward=cfg.critic.reward,
        )
        found["value"] = shift_to_tokens(value_BL)
        found[cfg.critic.score] = getattr(known.values, f"{cfg.critic.score}_BL")
    if has_scores(cfg):
        found["score"] = score_BL
    return found


def has_scores(cfg: Config) -> bool:
    """Whether anything tells the tokens of a document apart."""
    return cfg.algorithm.score is not algorithms.no_score or (
        cfg.weighting.control == "random"
    )


def _by_token(x_BLK: np.ndarray, kept_BLK: np.ndarray, length: int) -> np.ndarray:
    """`y[j,k] = x[0, j-1-k, k]` where it is kept, else NaN."""
    found_LK = np.where(kept_BLK, x_BLK, np.nan)[0, :length]
    y_TK = np.full(found_LK.shape, np.nan, found_LK.dtype)
    for k in range(found_LK.shape[1]):
        y_TK[k + 1 :, k] = found_LK[: max(0, length - 1 - k), k]
    return y_TK


def _clipped(weight_TK: np.ndarray, cfg: Config) -> np.ndarray:
    """Which weights a bound holds: only the rule soft has any."""
    if cfg.rule != "soft" or not has_scores(cfg):
        return np.zeros(weight_TK.shape, np.int8)
    floor, ceiling = cfg.weighting.weight_floor, cfg.weighting.weight_ceiling
    at_floor, at_ceiling = (
        np.isclose(weight_TK, bound, rtol=1e-6, atol=0) for bound in (floor, ceiling)
    )
    return at_ceiling.astype(np.int8) - at_floor.astype(np.int8)
