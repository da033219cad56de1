"""Experiments of which the truth is known, and how often they are judged right.

Axes: A arms, S seeds, N problems.
"""

from unittest.mock import patch

import numpy as np

from shared.comparison.statistics.differences import difference
from shared.comparison.statistics.verdicts import verdicts

DRAWS = 499  # of the bootstrap in simulations: more change their figures by 0.1 %


def normal(rng, seeds, problems, seed_part, rest_part=0.3):
    """Differences of mean 0, of which the problems make 1 / N of the mean's variance.

    Args:
      seed_part: the seeds' variance of the mean against that.
      rest_part: how much of that is not the same with every seed.
    """
    return _sum(
        rng.normal(size=problems),
        rng.normal(size=(seeds, problems)),
        rng.normal(size=seeds),
        seed_part,
        rest_part,
    )


def skewed(rng, seeds, problems, seed_part, rest_part=0.3):
    """The same of gamma and exponential parts: skewness 2.8 and 2."""
    return _sum(
        (rng.gamma(0.5, 1, problems) - 0.5) / 0.5**0.5,
        rng.exponential(size=(seeds, problems)) - 1,
        rng.normal(size=seeds),
        seed_part,
        rest_part,
    )


def _sum(problem_N, rest_SN, seed_S, seed_part, rest_part):
    seeds, problems = rest_SN.shape
    shift_S = seed_S * (seed_part * seeds / problems) ** 0.5
    problem_N = problem_N * (1 - rest_part) ** 0.5
    return problem_N + shift_S[:, None] + rest_SN * (rest_part * seeds) ** 0.5


def binary(rng, seeds, problems, seed_part, undecided=0.2):
    """Differences of greedy pass@1, of mean 0: 8 % are not 0, on `undecided` problems.

    Both arms solve the others alike. Of these every arm has its own log odds.
    """
    open_N = rng.random(problems) < undecided
    hard_N, arm_N = rng.normal(0, 1.5, problems), rng.normal(0, 1, problems)
    # What 0.17 of an undecided problem per unit of log odds makes of a seed's shift.
    part = (0.33 / seeds + 0.055) * seed_part * seeds / problems / undecided
    shift_S1 = rng.normal(0, part**0.5 / 0.17, (seeds, 1))
    half_SN = (arm_N + shift_S1) / 2
    chance_SN = 1 / (1 + np.exp(np.array([-half_SN, half_SN]) - hard_N))
    first_SN, second_SN = rng.random((2, seeds, problems)) < chance_SN
    return np.where(open_N, first_SN * 1.0 - second_SN, 0.0)


KINDS = {"normal": normal, "skewed": skewed, "binary": binary}


def interval_of(difference_SN, number=0, draws=DRAWS):
    """`difference` of scores that differ by this; shares where they can be."""
    share = bool(np.isin(difference_SN, (-1, 0, 1)).all())
    first, second = np.maximum(difference_SN, 0), np.maximum(-difference_SN, 0)
    return difference(first, second, share=share, draws=draws, seed=number)


def coverage(kind, seeds, problems, seed_part, number):
    """Shares of `number` experiments whose interval is above and below the truth."""
    rng = np.random.default_rng([seeds, problems, int(100 * seed_part), len(kind)])
    above = below = 0
    for i in range(number):
        drawn = KINDS[kind](rng, seeds, problems, seed_part)
        found = interval_of(drawn, i).interval
        above, below = above + (found.low > 0), below + (found.high < 0)
    return above / number, below / number


def wrong_families(seeds, number, arm_part, problems=100, arms=5):
    """The share of families with a `better` or a `worse` where there is nothing.

    Args:
      arm_part: standard deviation of an arm's own effect on a problem, of mean 0; 0 for
        arms that are the same.
    """
    rng = np.random.default_rng([seeds, int(10 * arm_part)])
    better = worse = 0
    for i in range(number):
        score_ASN = rng.normal(0, 1, problems) + rng.normal(
            0, 0.5, (arms, seeds, problems)
        )
        score_ASN += arm_part * rng.normal(0, 1, (arms, 1, problems))
        score_ASN += rng.normal(0, 0.05, (arms, seeds, 1))
        family = {
            str(a): difference(
                score_ASN[a], score_ASN[0], draws=DRAWS, seed=i, lower_is_better=True
            )
            for a in range(1, arms)
        }
        with patch("gc.collect"):  # multipletests', which takes longer than all else
            words = {verdict.word for verdict in verdicts(family).values()}
        better, worse = better + ("better" in words), worse + ("worse" in words)
    return better / number, worse / number


def power(seeds, problems, seed_part, number):
    """The share of experiments that find an effect of another one's `smallest`."""
    rng = np.random.default_rng([seeds, problems, int(100 * seed_part)])
    found = 0
    for i in range(number):
        pilot = interval_of(normal(rng, seeds, problems, seed_part), i)
        drawn = normal(rng, seeds, problems, seed_part) + pilot.smallest
        found += interval_of(drawn, i).interval.low > 0
    return found / number


def pigeonhole_misses(seeds, problems, seed_part, number, draws=999):
    """How often the plain bootstrap of problems and seeds misses, by percentiles."""
    rng = np.random.default_rng([seeds, problems, int(100 * seed_part)])
    missed = 0
    for _ in range(number):
        drawn = normal(rng, seeds, problems, seed_part)
        seeds_DS = rng.multinomial(seeds, [1 / seeds] * seeds, draws)
        problems_DN = rng.multinomial(problems, [1 / problems] * problems, draws)
        mean_D = ((seeds_DS @ drawn) * problems_DN).sum(axis=1)
        low, high = np.quantile(mean_D, [0.025, 0.975])
        missed += not low <= 0 <= high
    return missed / number
