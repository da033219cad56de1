"""Every pair of arms that is compared, in every measure, and what was found.

Each arm is held against plain next-token training and against `baseline`, each
algorithm against its own controls too. The comparisons of the primary measures are one
family, those of all others a second one: p values are Holm's over their family.

Axes: S seeds, N problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from shared.algorithms import PLAIN
from shared.comparison.grid.arms import NTP, Arm
from shared.comparison.grid.found import Found
from shared.comparison.scores import (
    Measure,
    measures_of,
    pair,
    scores_of,
    why_unscored,
)
from shared.comparison.statistics.differences import Difference, difference
from shared.comparison.statistics.paired_tests import (
    mcnemar,
    wilcoxon,
    wilcoxon_over_seeds,
)
from shared.comparison.statistics.verdicts import Word, verdicts

LEVEL = 0.05  # of a family
Verdict = Word | Literal["not compared"]
To = Literal["ntp", "baseline", "control"]


@dataclass(frozen=True, kw_only=True)
class Test:
    """A second opinion on a comparison.

    Attributes:
      p: not adjusted; None where it does not apply.
      why: it does not.
    """

    p: float | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against another in one measure.

    Attributes:
      to: why these two: what the second is.
      seeds: that both have; None of arms without seeds.
      found: `first - second`; None where they could not be compared.
      p_holm: adjusted over the family.
      smallest: the effect that 8 of 10 such comparisons find, at the level that the
        family leaves to one of them in the worst case; None where that is not known.
      why: they could not be compared.
      mcnemar: over problems, of one greedy sample each.
      wilcoxon: over problems, of means over seeds.
      over_seeds: Wilcoxon's over seeds, of means over problems.
    """

    measure: Measure
    first: Arm
    second: Arm
    to: To
    seeds: tuple[int | None, ...] = ()
    found: Difference | None = None
    p_holm: float | None = None
    smallest: float | None = None
    verdict: Verdict = "not compared"
    why: str = ""
    mcnemar: Test = Test()
    wilcoxon: Test = Test()
    over_seeds: Test = Test()


def pairs_of(arms: Sequence[Arm]) -> list[tuple[Arm, Arm, To]]:
    """Who is held against whom: first, second and what the second is."""
    named = {arm.name: arm for arm in arms}
    pairs: list[tuple[Arm, Arm, To]] = []
    for arm in arms:
        if NTP in named and arm.name != NTP:
            pairs.append((arm, named[NTP], "ntp"))
        if PLAIN in named and arm.name not in (NTP, PLAIN):
            pairs.append((arm, named[PLAIN], "baseline"))
        pairs += [(arm, x, "control") for x in arms if x.of == arm.name]
    return pairs


def comparisons_of(found: Found) -> list[Comparison]:
    """All of them, primary measures first, with verdicts."""
    pairs = pairs_of(found.plan.arms)
    held = [
        _compare(found, measure, *pair)
        for measure in measures_of(found)
        for pair in pairs
    ]
    primary = _judged([x for x in held if x.measure.primary])
    return primary + _judged([x for x in held if not x.measure.primary])


def _compare(
    found: Found, measure: Measure, first: Arm, second: Arm, to: To
) -> Comparison:
    unknown = Comparison(measure=measure, first=first, second=second, to=to)
    held = []
    for arm in (first, second):
        scores = scores_of(found, arm.name, measure)
        if scores is None:
            why = f"{arm.name}: {why_unscored(found, arm.name, measure)}"
            return replace(unknown, why=why)
        held.append(scores)
    try:
        seeds, first_SN, second_SN = pair(*held)
    except ValueError as error:
        return replace(unknown, why=str(error))
    greedy = measure.share and held[0].samples == held[1].samples == 1
    return replace(
        unknown,
        seeds=seeds,
        found=difference(
            first_SN,
            second_SN,
            share=measure.share,
            lower_is_better=measure.good < 0,
        ),
        mcnemar=_mcnemar(first_SN, second_SN, measure, greedy),
        wilcoxon=Test(p=wilcoxon(first_SN, second_SN)),
        over_seeds=_over_seeds(first_SN, second_SN),
    )


def _judged(family: Sequence[Comparison]) -> list[Comparison]:
    """With Holm's p values over the family, and what follows from them."""
    known = {str(i): x.found for i, x in enumerate(family) if x.found is not None}
    said = verdicts(known, LEVEL)
    return [
        replace(
            one,
            verdict=said[str(i)].word,
            p_holm=said[str(i)].p,
            smallest=said[str(i)].smallest or None,  # 0 where nothing differs
        )
        if str(i) in said
        else one
        for i, one in enumerate(family)
    ]


def _mcnemar(
    first_SN: np.ndarray, second_SN: np.ndarray, measure: Measure, greedy: bool
) -> Test:
    if not measure.share:
        return Test(why="it is of right and wrong only")
    if not greedy:
        return Test(why="there are several samples of a problem")
    if len(first_SN) > 1:
        return Test(why="there are several seeds")
    return Test(p=mcnemar(first_SN[0].tolist(), second_SN[0].tolist()))


def _over_seeds(first_SN: np.ndarray, second_SN: np.ndarray) -> Test:
    found = wilcoxon_over_seeds(first_SN, second_SN)
    return Test(p=found.p, why=found.reason)
