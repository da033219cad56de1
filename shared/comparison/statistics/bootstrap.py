"""The studentised bootstrap of a mean over problems, and the bounds that it gives.

Axes: S seeds, N problems, D draws.
"""

import math

import numpy as np
from scipy.special import stdtrit

from shared.comparison.statistics.spread import Spread, half_width

FEWEST = 10  # problems; resamples of fewer are too much alike
CHUNK = 2**19  # numbers drawn at once: 4 MB


def studentised_draws(
    difference_SN: np.ndarray, draws: int, seed: int
) -> np.ndarray | None:
    """How many of its own standard errors the mean of resampled problems is off.

    A resample takes N problems with replacement, each with all its seeds; its
    `(mean* - mean) / error*` has the skewness and the tails that the mean itself has
    (bootstrap-t: Davison and Hinkley 1997, section 5.2). Seeds are not resampled: three
    of them have ten resamples, which tell nothing of the seeds that were not run.

    Args:
      difference_SN: finite.
      draws: how many, >= 1.
      seed: of the generator; the same seed gives the same draws.

    Returns:
      [D], in ascending order; None where there are fewer than 10 problems or all have
      the same mean: then there is no shape to learn.
    """
    value_N = difference_SN.mean(axis=0)
    problems = value_N.size
    if problems < FEWEST or np.ptp(value_N) == 0:
        return None
    value_N = value_N - value_N.mean()
    square_N = value_N**2
    rng = np.random.default_rng(seed)
    rows = max(1, CHUNK // problems)
    found = []
    for start in range(0, draws, rows):
        shape = (min(rows, draws - start), problems)
        drawn = rng.integers(0, problems, shape, dtype=np.int32)
        mean = value_N[drawn].mean(axis=1)
        variance = square_N[drawn].mean(axis=1) - mean**2
        # What has no spread of its own, but for rounding, takes that of all.
        variance[variance < 1e-12 * square_N.mean()] = square_N.mean()
        found.append(mean / np.sqrt(variance / (problems - 1)))
    return np.sort(np.concatenate(found))


def bound_distance(
    spread: Spread, draws_D: np.ndarray | None, tail: float, *, upper: bool
) -> float:
    """How far a bound is from the mean.

    A mean that resamples overshoot is likely too large itself: the lower bound has the
    upper quantile of the draws.

    Args:
      spread: of the differences.
      draws_D: from `studentised_draws`; without it Student's t of N - 1 degrees.
      tail: probability beyond the bound, in (0, 0.5).
      upper: which of the two bounds.

    Returns:
      >= 0; infinite for one problem.
    """
    if spread.problems == 1:
        return math.inf
    if draws_D is None:
        quantile = float(stdtrit(spread.problems - 1, 1 - tail))
    else:
        quantile = -_quantile(draws_D, tail) if upper else _quantile(draws_D, 1 - tail)
    return float(half_width(spread, max(quantile, 0.0), tail))


def two_sided_p(spread: Spread, draws_D: np.ndarray | None) -> float:
    """The p value: the interval of level `1 - p` just touches 0.

    It is below `1 - level` if and only if 0 is outside the interval of that level.
    Draws cannot tell a p value below 2 / (D + 1), and no such is returned.

    Returns:
      In (0, 1].
    """
    if spread.mean == 0 or spread.problems == 1:
        return 1.0
    upper, distance = spread.mean < 0, abs(spread.mean)
    least = 1e-12 if draws_D is None else 1 / (draws_D.size + 1)
    low, high = math.log(least), math.log(0.5)
    for _ in range(36):  # halves the logarithm of the tail
        middle = (low + high) / 2
        tail = math.exp(middle)
        if bound_distance(spread, draws_D, tail, upper=upper) < distance:
            high = middle
        else:
            low = middle
    return min(1.0, 2 * math.exp(high))


def _quantile(ascending_D: np.ndarray, probability: float) -> float:
    """Linear between the draws, of which the i-th from 1 is the quantile i / (D + 1).

    np.quantile's `weibull`, without its sorting.
    """
    place = probability * (ascending_D.size + 1) - 1
    place = min(max(place, 0.0), ascending_D.size - 1.0)
    before = int(place)
    after = min(before + 1, ascending_D.size - 1)
    rise = float(ascending_D[after] - ascending_D[before])
    return float(ascending_D[before]) + (place - before) * rise
