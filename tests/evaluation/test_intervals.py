"""Intervals against enumeration, scipy and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from shared.evaluation.results.intervals import (
    difference_interval,
    mean_interval,
    smallest_difference,
    unpaired_deviation,
    wilson,
)

DRAWS = 4000


def covered(draws, truth, share=False):
    """The share of draws whose interval of the mean holds the truth."""
    found = [mean_interval(draw, share=share) for draw in draws]
    return sum(x.low <= truth <= x.high for x in found) / len(found)


@pytest.mark.parametrize("right, number", [(0, 1), (1, 1), (2, 100), (81, 500)])
def test_wilson_is_that_of_scipy(right, number):
    found = wilson(right, number)
    expected = stats.binomtest(right, number).proportion_ci(0.95, "wilson")
    assert found.value == right / number
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_wilson_covers_by_enumeration():
    """Over the true share on average, as is its promise, and never by far less."""
    found = [wilson(right, 100) for right in range(101)]
    coverage = []
    for truth in np.linspace(0.02, 0.98, 97):
        chances = stats.binom.pmf(range(101), 100, truth)
        held = [x.low <= truth <= x.high for x in found]
        coverage.append(chances[held].sum())
    assert 0.945 < np.mean(coverage) < 0.955 and min(coverage) > 0.91


def test_a_mean_is_that_of_scipy():
    values = [0.0, 0.25, 0.5, 1.0, 0.125]
    found = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.value == np.mean(values) and found.low < 0
    assert mean_interval(values, share=True).low == 0


def test_a_mean_covers_what_it_promises():
    rng = np.random.default_rng(0)
    bits = rng.gamma(4, 0.25, (DRAWS, 100))  # of mean 1, skewed to the right
    assert covered(bits, 1.0) == pytest.approx(0.95, abs=0.012)
    chance = rng.beta(0.5, 2, (DRAWS, 164))  # problems that differ, 16 samples of each
    shares = rng.binomial(16, chance) / 16
    assert covered(shares, 0.2, share=True) == pytest.approx(0.95, abs=0.012)


def test_values_without_spread():
    for mean, right in ((0.0, 0), (1.0, 40)):
        found, expected = mean_interval([mean] * 40, share=True), wilson(right, 40)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert mean_interval([0.5] * 40, share=True).low == pytest.approx(
        wilson(20, 40).low
    )
    assert mean_interval([2.0] * 9).low == 2.0
    assert mean_interval([2.0]).high == math.inf


def test_a_paired_difference_is_that_of_scipy_and_narrower():
    rng = np.random.default_rng(1)
    hard = rng.gamma(2, 0.5, 200)
    first, second = hard + rng.normal(0, 0.1, 200), hard + rng.normal(0.02, 0.1, 200)
    found = difference_interval(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.value == pytest.approx(first.mean() - second.mean())
    apart = stats.ttest_ind(first, second).confidence_interval(0.95)
    assert (found.high - found.low) < (apart.high - apart.low) / 3


def test_no_difference_has_a_width_too():
    found = difference_interval([0, 1] * 50, [0, 1] * 50, share=True)
    assert found.value == 0 and found.high == -found.low == wilson(0, 100).high
    assert difference_interval([1.5, 2], [1.5, 2]).high == 0


def test_nothing_is_found_where_there_is_nothing():
    """Of two models that are alike one in twenty comparisons tells a difference."""
    rng = np.random.default_rng(2)
    chance = rng.beta(0.5, 2, 100)
    first, second = rng.binomial(1, chance, (2, DRAWS, 100))
    found = [difference_interval(a, b) for a, b in zip(first, second, strict=True)]
    wrong = sum(not x.low <= 0 <= x.high for x in found) / DRAWS
    assert wrong == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize("number", [50, 164, 500])
def test_the_smallest_difference_is_found_four_times_of_five(number):
    least = smallest_difference(0.3, number)
    # The t test's own power, from the noncentral t distribution.
    shift, bound = least * math.sqrt(number) / 0.3, stats.t.ppf(0.975, number - 1)
    assert stats.nct.sf(bound, number - 1, shift) == pytest.approx(0.8, abs=0.02)


def test_the_smallest_difference_by_simulation():
    rng = np.random.default_rng(3)
    differences = rng.normal(smallest_difference(0.4, 100), 0.4, (DRAWS, 100))
    found = [mean_interval(x).low > 0 for x in differences]
    assert sum(found) / DRAWS == pytest.approx(0.8, abs=0.02)


def test_a_deviation_without_a_second_file():
    values = [0.0, 1.0, 1.0, 0.0]
    assert unpaired_deviation(values) == pytest.approx(math.sqrt(2 / 3))
    none = unpaired_deviation([0.0] * 96, share=True)
    assert none == pytest.approx(math.sqrt(2 * 0.02 * 0.98))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: wilson(3, 2), "of 0 to number, got 3 of number = 2"),
        (lambda: wilson(0, 0), "got 0 of number = 0"),
        (lambda: mean_interval([]), "over at least one problem, got none"),
        (lambda: mean_interval([1, math.nan]), "of finite values"),
        (lambda: difference_interval([1], [1, 2]), "the same problems, got 1 and 2"),
        (lambda: smallest_difference(-1, 5), "a deviation >= 0, got 5 and -1"),
        (lambda: unpaired_deviation([1.0]), "at least two problems, got 1"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(ValueError) as refused:
        call()
    assert said in str(refused.value)
