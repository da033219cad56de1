"""Which difference an experiment of a size would have found."""

import math

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

from shared.comparison.statistics.spread import Spread, half_width
from shared.evaluation.results.intervals import POWER

NODES = 24  # of each integral; many more move the result by less than 1 %


def smallest_effect(spread: Spread, alpha: float = 0.05, power: float = POWER) -> float:
    """The smallest true difference that is found with 80 % power.

    Found: the two-sided interval of level `1 - alpha` excludes 0. The effect solves

        E[Phi((effect - width) / sqrt(problem + true))] = power

    where `width` is `half_width` of another experiment of the same size. Few seeds
    tell their own variance badly, so `true`, the seeds' part in it, is not taken for
    what was seen, but averaged over what may lie behind it, `seed (S - 1) / chi2`; the
    other experiment sees `true chi2' / (S - 1)` of it. Of experiments that each take
    their effect from another one 80 % then find it, whatever the seeds' variance is.

    Args:
      spread: of the differences seen.
      alpha: level of the test; of one of m comparisons that Holm's rule judges,
        `alpha / m` is safe.
      power: in (0.5, 1).

    Returns:
      In the scores' unit, >= 0; infinite for one problem.

    Raises:
      ValueError: if alpha or power is out of its range.
    """
    if not 0 < alpha < 1 or not 0.5 < power < 1:
        raise ValueError(
            "alpha must be in (0, 1) and power in (0.5, 1), got "
            f"{alpha:g} and {power:g}"
        )
    if spread.problems == 1:
        return math.inf
    true_T1, seen_TW = _seeds_parts(spread)
    quantile = float(stdtrit(spread.problems - 1, 1 - alpha / 2))
    width_TW = half_width(spread, quantile, alpha / 2, seen_TW)
    error_T1 = np.sqrt(spread.problem + true_T1)
    if not error_T1.max() > 0:
        return 0.0
    low, high = 0.0, float(width_TW.max() + 10 * error_T1.max())
    for _ in range(30):
        middle = (low + high) / 2
        if ndtr((middle - width_TW) / error_T1).mean() < power:
            low = middle
        else:
            high = middle
    return high


def _seeds_parts(spread: Spread) -> tuple[np.ndarray, np.ndarray]:
    """What the seeds' part may truly be, and what another experiment sees of it.

    Axes: T true parts, W what is seen; each of equal probability.
    """
    if spread.seeds == 1:
        return np.zeros((1, 1)), np.zeros((1, 1))
    freedom = spread.seeds - 1
    tails = (np.arange(NODES) + 0.5) / NODES
    ratio = chdtri(freedom, tails) / freedom
    true_T1 = (spread.seed / ratio)[:, None]
    return true_T1, true_T1 * ratio
