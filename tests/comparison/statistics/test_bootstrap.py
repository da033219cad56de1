"""The bootstrap against scipy's own, its bounds and p values."""

import math

import numpy as np
import pytest
from scipy import stats

from shared.comparison.statistics.bootstrap import (
    bound_distance,
    studentised_draws,
    two_sided_p,
)
from shared.comparison.statistics.spread import spread_of


def bounds(value_SN, draws=4000, level=0.95):
    spread, draws_D = spread_of(value_SN), studentised_draws(value_SN, draws, 0)
    tail = (1 - level) / 2
    return (
        spread.mean - bound_distance(spread, draws_D, tail, upper=False),
        spread.mean + bound_distance(spread, draws_D, tail, upper=True),
    )


def test_draws_are_those_of_a_loop():
    value_N = np.random.default_rng(0).gamma(0.5, 1, 40)
    draws_D = studentised_draws(value_N[None], 300, 7)
    rng, expected = np.random.default_rng(7), []
    for drawn in rng.integers(0, 40, (300, 40), dtype=np.int32):
        again = value_N[drawn]
        error = again.std(ddof=1) / math.sqrt(40)
        # Of a variance with ddof 0 over N - 1, which is the same.
        expected.append((again.mean() - value_N.mean()) / error)
    assert draws_D == pytest.approx(np.sort(expected))


def test_of_normal_problems_they_are_students():
    value_1N = np.random.default_rng(1).normal(0, 1, (1, 400))
    expected = stats.ttest_1samp(value_1N[0], 0).confidence_interval(0.95)
    width = expected.high - expected.low
    assert bounds(value_1N) == pytest.approx(tuple(expected), abs=0.05 * width)


def test_of_skewed_problems_the_bounds_lean_where_the_tail_is():
    value_1N = np.random.default_rng(2).exponential(1, (1, 60))
    low, high = bounds(value_1N)
    mean = value_1N.mean()
    assert high - mean > 1.15 * (mean - low)
    # scipy has no bootstrap-t; its BCa corrects the same skewness.
    drawn = stats.bootstrap(value_1N, np.mean, rng=np.random.default_rng(3))
    expected = drawn.confidence_interval
    width = expected.high - expected.low
    assert (low, high) == pytest.approx(tuple(expected), abs=0.15 * width)


def test_few_problems_have_students_bounds():
    value_1N = np.array([[0.1, 0.4, 0.2, 0.9]])
    assert studentised_draws(value_1N, 100, 0) is None
    expected = stats.ttest_1samp(value_1N[0], 0).confidence_interval(0.95)
    assert bounds(value_1N) == pytest.approx(tuple(expected))
    assert bounds(np.array([[0.3]])) == (-math.inf, math.inf)


def test_p_is_that_of_students_test_where_the_bounds_are():
    value_1N = np.array([[0.1, 0.4, 0.2, 0.9]])
    found = two_sided_p(spread_of(value_1N), None)
    assert found == pytest.approx(stats.ttest_1samp(value_1N[0], 0).pvalue)
    value_1N = np.random.default_rng(1).normal(0.1, 1, (1, 400))
    draws_D = studentised_draws(value_1N, 10_000, 0)
    found = two_sided_p(spread_of(value_1N), draws_D)
    assert found == pytest.approx(stats.ttest_1samp(value_1N[0], 0).pvalue, abs=0.02)


@pytest.mark.parametrize("seeds", [1, 2, 3, 6])
def test_the_interval_of_one_minus_p_touches_zero(seeds):
    rng = np.random.default_rng(seeds)
    for shift in (0.02, -0.1, 0.3):
        value_SN = rng.gamma(2, 0.5, (seeds, 50)) - 1 + shift
        spread, draws_D = spread_of(value_SN), studentised_draws(value_SN, 2000, 0)
        p = two_sided_p(spread, draws_D)
        near = min(map(abs, bounds(value_SN, 2000, 1 - p)))
        assert near < 1e-6 * spread.error or p in (1, pytest.approx(2 / 2001))


def test_no_p_is_smaller_than_the_draws_can_tell():
    value_1N = 5 + np.random.default_rng(0).normal(0, 0.1, (1, 50))
    spread, draws_D = spread_of(value_1N), studentised_draws(value_1N, 999, 0)
    assert two_sided_p(spread, draws_D) == pytest.approx(2 / 1000)


def test_resamples_without_spread_take_that_of_all():
    value_1N = np.zeros((1, 12))
    value_1N[0, 0] = 1
    draws_D = studentised_draws(value_1N, 1000, 0)
    assert np.isfinite(draws_D).all()
    # Without the 1: a mean of 0 and not 1 / 12, which is also its error.
    assert np.isclose(draws_D, -1).mean() == pytest.approx((11 / 12) ** 12, abs=0.05)
