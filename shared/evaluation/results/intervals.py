"""95 % intervals of what is reported, and the smallest difference that can be shown.

Problems are the sample: an interval tells what other problems of the same kind would
give, with other draws from the model. Means have t intervals and no bootstrap: they
need no seed, so that a file gives the same interval everywhere, and they cover what
they promise at the sizes of these benchmarks (measured in the tests). Where all values
are alike there is no spread to go by, and a mean of values in [0, 1] gets Wilson's
interval, which is never of no width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
POWER = 0.8  # of finding a difference that is there


@dataclass(frozen=True)
class Interval:
    """A value and the bounds that its 95 % interval has."""

    value: float
    low: float
    high: float


def wilson(right: int, number: int) -> Interval:
    """Of a share, such as greedy pass@1: `right` of `number` problems are solved.

    Wilson's score interval (1927), without continuity correction: that of scipy's
    `binomtest(...).proportion_ci(method="wilson")`, which takes a second to import.

    Raises:
      ValueError: unless 0 <= right <= number and number >= 1.

    Example:
      >>> wilson(2, 100)
      Interval(value=0.02, low=0.0055..., high=0.0700...)
    """
    if number < 1 or not 0 <= right <= number:
        raise ValueError(
            f"a share must be of 0 to number, got {right} of number = {number}"
        )
    return _of_share(right / number, number)


def mean_interval(values: Sequence[float], *, share: bool = False) -> Interval:
    """Of a mean over problems: a t interval, `mean +- t * s / sqrt(N)`.

    Args:
      values: one of each problem, as pass@k or bits per byte.
      share: the values are in [0, 1], and so are the bounds.

    Returns:
      Without bounds (infinite) for one value that is no share.

    Raises:
      ValueError: if there is no value, or one is not finite.
    """
    found = _checked(values)
    if share and found.min() == found.max():
        return _of_share(float(found[0]), found.size)
    of = _t_interval(found)
    return Interval(of.value, max(0.0, of.low), min(1.0, of.high)) if share else of


def difference_interval(
    first: Sequence[float], second: Sequence[float], *, share: bool = False
) -> Interval:
    """Of the mean difference `first - second`, paired problem by problem.

    A t interval of the differences. What makes a problem hard is hard for both, so it
    is often a third as wide as that of two unpaired means (Miller 2024, arXiv
    2411.00640).

    Args:
      first, second: values of the same problems, in the same order.
      share: they are in [0, 1]. Where no problem differs, the bounds are then how many
        others could.

    Raises:
      ValueError: as `mean_interval`, or if the lengths differ.
    """
    if len(first) != len(second):
        raise ValueError(
            "paired values must be of the same problems, got "
            f"{len(first)} and {len(second)}"
        )
    differences = _checked(first) - _checked(second)
    if share and not differences.any():
        most = wilson(0, differences.size).high
        return Interval(0.0, -most, most)
    return _t_interval(differences)


def smallest_difference(deviation: float, number: int) -> float:
    """The difference of means that is found with 80 % power at the 5 % level.

    `(z(0.975) + z(0.8)) * deviation / sqrt(number)`, 2.80 standard errors: the formula
    for the sample size in Miller 2024 (arXiv 2411.00640), solved for the
    difference. A true difference that is smaller will mostly be called no difference.

    Args:
      deviation: standard deviation of the paired differences over problems, >= 0.
      number: of problems, >= 1.

    Raises:
      ValueError: if they are out of their ranges.

    Example:
      >>> round(smallest_difference(0.5, 100), 3)
      0.14
    """
    if number < 1 or not 0 <= deviation < math.inf:
        raise ValueError(
            "the smallest difference must be of at least one problem and a deviation "
            f">= 0, got {number} and {deviation}"
        )
    deviations = ndtri((1 + CONFIDENCE) / 2) + ndtri(POWER)
    return float(deviations * deviation / math.sqrt(number))


def unpaired_deviation(values: Sequence[float], *, share: bool = False) -> float:
    """What `smallest_difference` needs, where there is no second file to pair with.

    `sqrt(2) * s`: as if the other file had the same spread and shared nothing. Files
    of the same problems share much, so it tells the most that the difference must be.

    Args:
      values: one of each problem.
      share: they are in [0, 1]; where all are alike their spread is that of a share
        with two more problems right and two more wrong (Agresti and Coull 1998).

    Raises:
      ValueError: as `mean_interval`, or if one value has to tell a spread.
    """
    found = _checked(values)
    if share and found.min() == found.max():
        of = (found.sum() + 2) / (found.size + 4)
        return math.sqrt(2 * of * (1 - of))
    if found.size < 2:
        raise ValueError("a spread must be of at least two problems, got 1")
    return math.sqrt(2) * float(found.std(ddof=1))


def _checked(values: Sequence[float]) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if not found.size:
        raise ValueError("a mean must be over at least one problem, got none")
    if not np.isfinite(found).all():
        raise ValueError("a mean must be of finite values, got one that is not")
    return found


def _t_interval(values: np.ndarray) -> Interval:
    mean = float(values.mean())
    if values.size < 2:
        return Interval(mean, -math.inf, math.inf)
    quantile = stdtrit(values.size - 1, (1 + CONFIDENCE) / 2)
    half = float(quantile * values.std(ddof=1)) / math.sqrt(values.size)
    return Interval(mean, mean - half, mean + half)


def _of_share(mean: float, number: int) -> Interval:
    """Wilson's bounds for a share of any size: `mean * number` need be no integer."""
    z = float(ndtri((1 + CONFIDENCE) / 2))
    middle = (mean + z * z / (2 * number)) / (1 + z * z / number)
    spread = mean * (1 - mean) / number + (z / (2 * number)) ** 2
    half = z * math.sqrt(spread) / (1 + z * z / number)
    return Interval(mean, max(0.0, middle - half), min(1.0, middle + half))
