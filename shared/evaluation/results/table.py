"""Results as the rows of a table, each number with what it could also be."""

from collections.abc import Sequence

import numpy as np

from shared.evaluation.results.intervals import (
    Interval,
    difference_interval,
    mean_interval,
    smallest_difference,
    unpaired_deviation,
    wilson,
)
from shared.evaluation.results.of_problems import (
    ProblemResult,
    bits_per_byte,
    by_head,
    paired,
    pass_values,
)

NOTE = "In brackets 95 % intervals over problems."
SHOWN_NOTE = (
    "To show: the smallest difference of "
    "pass@1 from another model that these problems would show in 80 of 100 "
    "comparisons, were the two models' answers unrelated; paired problem by problem, "
    "less is enough."
)


def pass_interval(results: Sequence[ProblemResult], k: int) -> Interval:
    """pass@k: Wilson's interval for one sample of each problem, else that of a mean.

    Raises:
      ValueError: as `results.pass_values`, or without results.
    """
    values = pass_values(results, k)
    if values and all(result.n == 1 for result in results):
        return wilson(sum(result.c for result in results), len(results))
    return mean_interval(values, share=True)


def table_columns(ks: Sequence[int]) -> list[str]:
    """The columns of `table_row`."""
    passes = [f"pass@{k}" for k in dict.fromkeys((1, *ks))]
    return ["task", "problems", *passes, "bits per byte", "timed out", "to show"]


def table_row(
    task: str, results: Sequence[ProblemResult], ks: Sequence[int]
) -> list[object]:
    """One task's row for `console.table`; `-` for what was not measured.

    Args:
      task: what the row is called.
      results: of all its problems.
      ks: of pass@k beside pass@1, the same for all rows.

    Raises:
      ValueError: without results, or if k is more than the samples of a problem.
    """
    if not results:
        raise ValueError(f"a table's row must be of at least one problem, got {task}")
    sampled = any(result.n for result in results)
    passes = [
        _percent(pass_interval(results, k)) if sampled else "-"
        for k in dict.fromkeys((1, *ks))
    ]
    bits, to_show = "-", "-"
    if all(result.bits is not None for result in results):
        bits = _number(mean_interval(bits_per_byte(results)))
    if sampled:
        deviation = unpaired_deviation(pass_values(results, 1), share=True)
        to_show = _points(smallest_difference(deviation, len(results)))
    late = sum(result.timed_out for result in results)
    timed_out: object = late if sampled else "-"
    return [task, len(results), *passes, bits, timed_out, to_show]


def difference_row(
    name: str, first: Sequence[ProblemResult], second: Sequence[ProblemResult], k: int
) -> list[object]:
    """Two files problem by problem: `first - second`.

    Args:
      name: what the row is called.
      k: of pass@k.

    Returns:
      name, problems, difference of pass@k in points, of bits per byte, and the smallest
      difference of pass@k that the pairs could show; `-` for what was not measured.

    Raises:
      ValueError: if they are not of the same problems, or k is more than the samples of
        one.
    """
    pairs = paired(first, second)
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    passes, bits, to_show = "-", "-", "-"
    if any(result.n for result in (*ours, *theirs)):
        values, others = pass_values(ours, k), pass_values(theirs, k)
        passes = _percent(difference_interval(values, others, share=True), "points")
        if len(pairs) > 1:
            differences = [a - b for a, b in zip(values, others, strict=True)]
            deviation = float(np.std(differences, ddof=1))
            to_show = _points(smallest_difference(deviation, len(pairs)))
    if all(result.bits is not None for result in (*ours, *theirs)):
        found = difference_interval(bits_per_byte(ours), bits_per_byte(theirs))
        bits = _number(found)
    return [name, len(pairs), passes, bits, to_show]


HEAD_COLUMNS = ["task", "head", "targets", "nll", "most probable", "mean rank"]


def head_rows(task: str, results: Sequence[ProblemResult]) -> list[list[object]]:
    """How each head predicts what was measured: means over all targets.

    Nll in nats; the share of targets that the head holds for the most probable token;
    the rank of the target, from 1.
    """
    rows: list[list[object]] = []
    for k, of in enumerate(by_head(results)):
        nll, targets, right, rank = (
            sum(getattr(one, name) for one in of)
            for name in ("nll", "targets", "right", "rank")
        )
        if targets:
            share = f"{100 * right / targets:.1f} %"
            means = f"{nll / targets:.4f}", share, f"{rank / targets:.1f}"
            rows.append([task, k, targets, *means])
    return rows


DIFFERENCE_COLUMNS = ["task", "problems", "pass@1", "bits per byte", "to show"]


def _percent(of: Interval, unit: str = "%") -> str:
    value, low, high = (100 * x for x in (of.value, of.low, of.high))
    return f"{value:.1f} {unit} [{low:.1f}, {high:.1f}]"


def _number(of: Interval) -> str:
    return f"{of.value:.4f} [{of.low:.4f}, {of.high:.4f}]"


def _points(difference: float) -> str:
    """Of two shares, which no more than 100 points can be between."""
    return f"{100 * difference:.1f} points" if difference <= 1 else "> 100 points"
