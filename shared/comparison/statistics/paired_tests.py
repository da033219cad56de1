"""Classical tests of paired scores, beside the interval of their difference.

Axes: S seeds, N problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats import contingency_tables, multitest

from shared.comparison.statistics.differences import SAME, paired_scores

FEWEST_SEEDS = 6  # of 5, all on one side have p = 2 / 2**5 = 0.0625


@dataclass(frozen=True)
class OverSeeds:
    """A test over seeds.

    Attributes:
      p: two-sided; None where the seeds cannot give one below 0.05.
      reason: why there is none, else empty.
    """

    p: float | None
    reason: str = ""


def mcnemar(first_N: Sequence[float], second_N: Sequence[float]) -> float:
    """McNemar's exact test of greedy pass@1 of one seed.

    Two-sided binomial, of the problems that one of the two alone solves (McNemar 1947):
    statsmodels' `mcnemar(table, exact=True)`.

    Args:
      first_N, second_N: 0 or 1 of each problem.

    Returns:
      p; 1 where none differs.

    Raises:
      ValueError: as `differences.paired_scores`, or if a score is neither 0 nor 1.

    Example:
      >>> mcnemar([1, 1, 1, 1, 0], [0, 0, 0, 0, 0])
      0.125
    """
    first_1N, second_1N = paired_scores(np.atleast_2d(first_N), np.atleast_2d(second_N))
    if not np.isin([first_1N, second_1N], (0, 1)).all():
        raise ValueError("McNemar's test must be of scores 0 or 1, got another")
    table = np.zeros((2, 2))
    np.add.at(table, (first_1N.astype(int), second_1N.astype(int)), 1)
    return float(contingency_tables.mcnemar(table, exact=True).pvalue)


def wilcoxon(first_SN: np.ndarray, second_SN: np.ndarray) -> float:
    """Wilcoxon's signed-rank test over problems, of the scores' means over seeds.

    Two-sided, problems without difference left out, as scipy's `wilcoxon`: exact for
    up to 50 problems without ties, else from the normal approximation. It is about
    these seeds alone.

    Returns:
      p; 1 where none differs.

    Raises:
      ValueError: as `differences.paired_scores`.
    """
    first_SN, second_SN = paired_scores(first_SN, second_SN)
    mean_N = (first_SN - second_SN).mean(axis=0)
    mean_N = mean_N[np.abs(mean_N) > SAME]
    return float(stats.wilcoxon(mean_N).pvalue) if mean_N.size else 1.0


def wilcoxon_over_seeds(first_SN: np.ndarray, second_SN: np.ndarray) -> OverSeeds:
    """Wilcoxon's signed-rank test over seeds, of the scores' means over problems.

    Two-sided and exact. It is about these problems alone.

    Returns:
      Without p where fewer than 6 seeds differ: all on one side, 5 of them have 0.0625.

    Raises:
      ValueError: as `differences.paired_scores`.

    Example:
      >>> wilcoxon_over_seeds([[0.1], [0.2], [0.4]], [[0.0], [0.0], [0.0]]).reason
      'p < 0.05 needs 6 seeds that differ, got 3'
    """
    first_SN, second_SN = paired_scores(first_SN, second_SN)
    mean_S = (first_SN - second_SN).mean(axis=1)
    mean_S = mean_S[np.abs(mean_S) > SAME]
    if mean_S.size < FEWEST_SEEDS:
        needs = f"p < 0.05 needs {FEWEST_SEEDS} seeds that differ"
        return OverSeeds(None, f"{needs}, got {mean_S.size}")
    return OverSeeds(float(stats.wilcoxon(mean_S, method="exact").pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of a family of comparisons, adjusted by Holm's rule (1979).

    Rejecting what is below alpha then errs in at most alpha of families, whatever the
    comparisons share: statsmodels' `multipletests(method="holm")`.

    Args:
      p_values: of all comparisons that are made; in [0, 1].

    Raises:
      ValueError: if one is out of its range.

    Example:
      >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
      [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p values must be in [0, 1], got {list(p_values)}")
    if not values.size:
        return []
    return [float(p) for p in multitest.multipletests(values, method="holm")[1]]
