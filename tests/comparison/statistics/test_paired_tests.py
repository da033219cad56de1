"""The classical tests against scipy, statsmodels and enumeration."""

import math

import numpy as np
import pytest
from scipy import stats

from shared.comparison.statistics.paired_tests import (
    OverSeeds,
    holm,
    mcnemar,
    wilcoxon,
    wilcoxon_over_seeds,
)

RNG = np.random.default_rng(0)


def test_mcnemar_is_the_binomial_of_those_that_differ():
    first, second = RNG.binomial(1, 0.6, 100), RNG.binomial(1, 0.4, 100)
    only = [int((first > second).sum()), int((first < second).sum())]
    expected = stats.binomtest(only[0], sum(only)).pvalue
    assert mcnemar(first, second) == pytest.approx(expected)
    assert mcnemar(first, first) == 1


def test_wilcoxon_is_that_of_scipy():
    first, second = RNG.normal(0.1, 1, (3, 40)), RNG.normal(0, 1, (3, 40))
    expected = stats.wilcoxon(first.mean(0), second.mean(0)).pvalue
    assert wilcoxon(first, second) == pytest.approx(expected)
    assert wilcoxon(first, first) == 1
    assert wilcoxon(first, second[:1]) == pytest.approx(
        stats.wilcoxon((first - second[0]).mean(0)).pvalue
    )


def test_wilcoxon_over_seeds_is_exact():
    first, second = RNG.normal(0.1, 1, (8, 40)), RNG.normal(0, 1, (8, 40))
    mean_S = (first - second).mean(1)
    expected = stats.wilcoxon(mean_S, method="exact").pvalue
    assert wilcoxon_over_seeds(first, second) == OverSeeds(pytest.approx(expected))


@pytest.mark.parametrize("seeds", [1, 2, 3, 4, 5, 6, 7])
def test_six_seeds_are_the_fewest(seeds):
    first = RNG.random((seeds, 5)) + 2
    found = wilcoxon_over_seeds(first, np.zeros((1, 5)))
    least = 2 / 2**seeds
    if least < 0.05:
        assert found == OverSeeds(least)
    else:
        assert found.p is None
        assert found.reason == f"p < 0.05 needs 6 seeds that differ, got {seeds}"


def test_holm_by_hand():
    values = [0.01, 0.2, 0.012, 0.04]
    # 4 * 0.01; 3 * 0.012 is less, so the same; 2 * 0.04; 1 * 0.2
    assert holm(values) == pytest.approx([0.04, 0.2, 0.04, 0.08])
    assert holm([]) == [] and holm([0.7]) == [0.7] and holm([0.9, 0.8]) == [1, 1]


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: mcnemar([0.5], [1]), "of scores 0 or 1, got another"),
        (lambda: mcnemar([1, 1], [1]), "of the same problems, got (1, 2) and (1, 1)"),
        (lambda: mcnemar([], []), "at least one, got (1, 0) and (1, 0)"),
        (lambda: wilcoxon([[math.nan]], [[1]]), "finite"),
        (lambda: wilcoxon_over_seeds([[1], [2]], [[1]] * 3), "the same seeds"),
        (lambda: holm([0.5, 1.5]), "in [0, 1], got [0.5, 1.5]"),
        (lambda: holm([math.nan]), "in [0, 1], got [nan]"),
    ],
)
def test_what_cannot_be_is_refused(call, said):
    with pytest.raises(ValueError) as refused:
        call()
    assert said in str(refused.value)
