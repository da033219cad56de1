"""The smallest effect: against the noncentral t distribution and simulation."""

import math

import pytest
from scipy import stats

from shared.comparison.statistics.power import smallest_effect
from shared.comparison.statistics.spread import Spread
from shared.evaluation.results.intervals import smallest_difference
from tests.comparison.statistics.simulated import power


@pytest.mark.parametrize("problems", [20, 100, 500])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_of_one_seed_it_is_that_of_students_test(problems, alpha):
    error = 0.3 / math.sqrt(problems)
    spread = Spread(0.0, error**2, error**2, 0.0, 1, problems)
    found = smallest_effect(spread, alpha)
    bound = stats.t.isf(alpha / 2, problems - 1)
    finds = stats.nct.sf(bound, problems - 1, found / error)
    assert finds == pytest.approx(0.8, abs=0.02)
    if alpha == 0.05 and problems == 500:
        assert found == pytest.approx(smallest_difference(0.3, 500), rel=0.01)


def test_seeds_without_a_part_change_nothing():
    one = Spread(0.0, 1.0, 1.0, 0.0, 1, 100)
    many = Spread(0.0, 1.0, 1.0, 0.0, 6, 100)
    assert smallest_effect(many) == pytest.approx(smallest_effect(one), rel=1e-6)


def test_fewer_seeds_of_the_same_spread_find_less():
    found = [
        smallest_effect(Spread(0.0, 0.5, 0.5, 0.5, seeds, 100))
        for seeds in (2, 3, 4, 6, 12)
    ]
    assert found == sorted(found, reverse=True)


def test_stricter_levels_and_more_power_need_more():
    spread = Spread(0.0, 0.5, 0.5, 0.5, 6, 100)
    assert smallest_effect(spread, 0.01) > smallest_effect(spread)
    assert smallest_effect(spread, power=0.9) > smallest_effect(spread)


@pytest.mark.parametrize("seeds", [1, 3, 6])
def test_four_experiments_of_five_find_it(seeds):
    assert power(seeds, 60, 0.3 if seeds > 1 else 0, 200) > 0.71  # 3 deviations of 200


@pytest.mark.slow
@pytest.mark.parametrize("seed_part", [0, 0.1, 1])
@pytest.mark.parametrize("seeds", [3, 6])
def test_power_by_simulation(seeds, seed_part, capsys):
    found = power(seeds, 100, seed_part, 2000)
    with capsys.disabled():
        print(f"\npower | {seeds} | {seed_part} | {found:.2%}")
    assert found > 0.8 - 0.02  # two standard deviations of 2000


@pytest.mark.parametrize("alpha, power_", [(0, 0.8), (1, 0.8), (0.05, 0.5), (0.05, 1)])
def test_what_cannot_be_is_refused(alpha, power_):
    with pytest.raises(ValueError, match=r"alpha must be in \(0, 1\) and power"):
        smallest_effect(Spread(0.0, 1.0, 1.0, 1.0, 3, 10), alpha, power_)
