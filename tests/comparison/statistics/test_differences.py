"""Paired differences: what they say, whatever order, and what they refuse."""

import math
import time
import tracemalloc

import numpy as np
import pytest

from shared.comparison.statistics.differences import difference
from shared.evaluation.results.intervals import (
    difference_interval,
    mean_interval,
    wilson,
)

RNG = np.random.default_rng(0)
HARD_N = RNG.gamma(4, 0.25, 80)
FIRST_SN = HARD_N + RNG.normal(-0.02, 0.1, 80) + RNG.normal(0, 0.1, (4, 80))
SECOND_SN = HARD_N + RNG.normal(0, 0.1, (4, 80))
BINARY_SN = RNG.binomial(1, 0.5, (2, 4, 80)).astype(float)


def test_the_value_is_the_mean_difference():
    found = difference(FIRST_SN, SECOND_SN)
    expected = (FIRST_SN - SECOND_SN).mean()
    assert found.interval.value == pytest.approx(expected)
    assert found.interval.low < expected < found.interval.high
    assert (found.seeds, found.problems, found.seeds_sampled) == (4, 80, True)


def test_one_seed_is_near_the_interval_over_problems():
    found = difference(FIRST_SN[:1], SECOND_SN[:1]).interval
    expected = difference_interval(list(FIRST_SN[0]), list(SECOND_SN[0]))
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx(
        (expected.low, expected.high), abs=0.07 * width
    )
    assert not difference(FIRST_SN[:1], SECOND_SN[:1]).seeds_sampled


@pytest.mark.parametrize("first, second", [(FIRST_SN, SECOND_SN), BINARY_SN])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_swapped_arms_have_the_opposite_difference(first, second, share, seeds):
    if share and first is FIRST_SN:
        first, second = np.clip([first, second], 0, 5) / 5
    found = difference(first[:seeds], second[:seeds], share=share)
    other = difference(second[:seeds], first[:seeds], share=share)
    assert found.interval.value == -other.interval.value
    assert found.interval.low == pytest.approx(-other.interval.high)
    assert found.interval.high == pytest.approx(-other.interval.low)
    assert found.p == pytest.approx(other.p)
    assert (found.wins, found.losses) == (other.losses, other.wins)
    assert found.better.value == pytest.approx(1 - other.better.value)
    assert found.smallest == pytest.approx(other.smallest)


def test_the_order_of_seeds_and_problems_is_nothing_but_noise():
    rng = np.random.default_rng(1)
    expected = difference(FIRST_SN, SECOND_SN)
    seeds, problems = rng.permutation(4)[:, None], rng.permutation(80)
    found = difference(FIRST_SN[seeds, problems], SECOND_SN[seeds, problems])
    width = expected.interval.high - expected.interval.low
    assert found.interval.low == pytest.approx(expected.interval.low, abs=0.03 * width)
    assert (found.wins, found.ties) == (expected.wins, expected.ties)
    assert found.smallest == pytest.approx(expected.smallest)


def test_the_unit_scales_the_interval_and_nothing_else():
    found, larger = (
        difference(FIRST_SN * unit, SECOND_SN * unit) for unit in (1, 1000)
    )
    assert larger.interval.low == pytest.approx(1000 * found.interval.low)
    assert larger.p == pytest.approx(found.p)
    assert larger.smallest == pytest.approx(1000 * found.smallest)


def test_the_same_seed_has_the_same_result():
    assert difference(FIRST_SN, SECOND_SN) == difference(FIRST_SN, SECOND_SN)
    other = difference(FIRST_SN, SECOND_SN, seed=1)
    assert other.interval != difference(FIRST_SN, SECOND_SN).interval


def test_an_untrained_model_stands_beside_every_seed():
    found = difference(FIRST_SN, SECOND_SN[:1])
    assert found == difference(FIRST_SN, np.tile(SECOND_SN[:1], (4, 1)))
    assert found.seeds_sampled
    assert difference(SECOND_SN[:1], FIRST_SN).interval.value == -found.interval.value


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_p_agrees_with_the_interval(level):
    rng = np.random.default_rng(2)
    outside = 0
    for shift in np.linspace(0, 0.25, 30):
        first = rng.gamma(1, 0.5, (3, 40)) + shift
        found = difference(first, np.full((1, 40), 0.5), level=level, draws=500)
        outside += not found.interval.low <= 0 <= found.interval.high
        assert (found.p < 1 - level) == (
            not found.interval.low <= 0 <= found.interval.high
        )
    assert 0 < outside < 30


def test_wins_ties_and_losses_follow_what_is_better():
    first = np.array([[0.0, 0.5, 1.0, 0.3], [0.0, 0.7, 1.0, 0.1]])
    second = np.array([[0.1, 0.5, 0.0, 0.1], [0.1, 0.7, 1.0, 0.3]])
    found = difference(first, second)
    assert (found.wins, found.ties, found.losses) == (1, 2, 1)
    assert found.better == mean_interval([0, 0.5, 1, 0.5], share=True)
    lower = difference(first, second, lower_is_better=True)
    assert (lower.wins, lower.losses, lower.interval) == (1, 1, found.interval)
    clear = difference(first[:, [2, 2, 0]], second[:, [2, 2, 1]])
    assert clear.better == wilson(2, 3)


def test_constant_differences():
    same = difference(FIRST_SN, FIRST_SN)
    assert (same.interval.low, same.interval.high, same.p) == (0, 0, 1)
    assert (same.ties, same.smallest) == (80, 0)
    more = difference(FIRST_SN + 0.5, FIRST_SN)
    assert more.interval.low == pytest.approx(0.5) == more.interval.high
    assert more.p < 0.001 and more.better == wilson(80, 80)


def test_shares_have_a_width_where_no_problem_differs():
    found = difference(BINARY_SN[0], BINARY_SN[0], share=True)
    assert (found.interval.low, found.interval.high) == (
        -wilson(0, 80).high,
        wilson(0, 80).high,
    )
    assert found.p == 1


def test_shares_stay_between_none_and_all():
    ones, zeros = np.ones((3, 12)), np.zeros((3, 12))
    found = difference(ones, zeros, share=True)
    assert 0 < found.interval.low < found.interval.high == 1 and found.p < 0.01
    half = difference(ones / 2, zeros, share=True).interval
    assert half.low < half.value == 0.5 <= half.high <= 1


def test_seeds_that_agree_by_chance_are_no_certainty():
    """Every seed solves one problem more than the other arm, each another one."""
    first, second = np.zeros((2, 3, 60))
    first[[0, 1, 2], [5, 6, 7]] = 1
    alone = mean_interval(list(first.mean(axis=0)))
    for share in (False, True):
        found = difference(first, second, share=share)
        width = found.interval.high - found.interval.low
        assert width > 0.4 * (alone.high - alone.low)
        assert found.p > 0.001 or not share


def test_one_problem_tells_nothing():
    found = difference([[0.1], [0.2]], [[0.3], [0.3]])
    assert (found.interval.low, found.interval.high) == (-math.inf, math.inf)
    assert (found.p, found.smallest) == (1, math.inf)


def test_ten_comparisons_of_a_usual_size_take_little():
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 6, 500))
    tracemalloc.start()
    difference(first, second)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start = time.process_time()
    for _ in range(10):
        difference(first, second)
    assert time.process_time() - start < 5 and peak < 100e6


@pytest.mark.parametrize(
    "first, second, options, said",
    [
        ([[1.0]], [[math.nan]], {}, "must be finite, got one that is not"),
        ([[1.0]], [[math.inf]], {}, "must be finite, got one that is not"),
        ([1.0], [1.0], {}, "of seeds x problems, at least one, got (1,) and (1,)"),
        (np.ones((2, 0)), np.ones((2, 0)), {}, "at least one, got (2, 0) and (2, 0)"),
        (np.ones((2, 3)), np.ones((2, 4)), {}, "the same problems, got (2, 3) and"),
        (np.ones((2, 1)), np.ones((2, 4)), {}, "the same problems, got (2, 1) and"),
        (np.ones((2, 3)), np.ones((4, 3)), {}, "the same seeds, or one, got (2, 3)"),
        ([[1.5]], [[0.5]], {"share": True}, "in [0, 1], got 1.5 to 1.5"),
        ([[0.5]], [[-1.0]], {"share": True}, "in [0, 1], got -1 to -1"),
        ([[1.0]], [[1.0]], {"level": 1.0}, "in (0, 1) and draws at least 1, got 1.0"),
        ([[1.0]], [[1.0]], {"draws": 0}, "draws at least 1, got 0.95 and 0"),
    ],
)
def test_what_cannot_be_is_refused(first, second, options, said):
    with pytest.raises(ValueError) as refused:
        difference(first, second, **options)
    assert said in str(refused.value) and "\n" not in str(refused.value)
