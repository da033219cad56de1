"""pass@k: how probable it is that one of k samples solves a problem."""

from collections.abc import Iterable
from math import comb


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate from n samples, of which c are right.

    `1 - C(n - c, k) / C(n, k)` (Chen et al. 2021, arXiv 2107.03374): the share of all
    choices of k of the n samples that hold a right one.

    Returns:
      A probability, in [0, 1].

    Raises:
      ValueError: unless 0 <= c <= n and 1 <= k <= n.

    Example:
      >>> pass_at_k(4, 1, 2)
      0.5
    """
    if not 0 <= c <= n:
        raise ValueError(f"right samples must be 0 to n, got {c} of n = {n}")
    if not 1 <= k <= n:
        raise ValueError(f"k must be 1 to the number of samples, got {k} of {n}")
    every = comb(n, k)
    return (every - comb(n - c, k)) / every  # of integers: rounded once


def mean_pass_at_k(counts: Iterable[tuple[int, int]], k: int) -> float:
    """The mean over problems, each with n samples of which c are right.

    Args:
      counts: (n, c) of each problem.

    Raises:
      ValueError: as `pass_at_k`, or if there is no problem.
    """
    values = [pass_at_k(n, c, k) for n, c in counts]
    if not values:
        raise ValueError("pass@k must be over at least one problem, got none")
    return sum(values) / len(values)
