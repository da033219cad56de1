"""What a family of comparisons says together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.comparison.statistics.differences import Difference
from shared.comparison.statistics.paired_tests import holm
from shared.comparison.statistics.power import smallest_effect

Word = Literal["better", "worse", "no difference seen"]


@dataclass(frozen=True)
class Verdict:
    """What is said of one comparison of a family.

    Attributes:
      word: of the first arm against the second.
      p: adjusted by Holm's rule for the whole family.
      smallest: the difference that would have been found with 80 % power in a family
        of this size: at the level alpha / m, where Holm's rule is strictest.
    """

    word: Word
    p: float
    smallest: float


def verdicts(
    family: Mapping[str, Difference], alpha: float = 0.05
) -> dict[str, Verdict]:
    """Judges all comparisons of an experiment at once.

    Without any true difference at most `alpha` of families hold a `better` or a
    `worse`. Leaving out what did not turn out well, before asking, breaks the promise.

    Args:
      family: every comparison that is made, by name.
      alpha: of the family, in (0, 1).

    Returns:
      In the order of the family.

    Raises:
      ValueError: if alpha is out of its range.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha:g}")
    adjusted = holm([one.p for one in family.values()])
    return {
        name: Verdict(
            _word(one, p, alpha), p, smallest_effect(one.spread, alpha / len(family))
        )
        for (name, one), p in zip(family.items(), adjusted, strict=True)
    }


def _word(one: Difference, p: float, alpha: float) -> Word:
    if p >= alpha:
        return "no difference seen"
    return "better" if (one.interval.value < 0) == one.lower_is_better else "worse"
