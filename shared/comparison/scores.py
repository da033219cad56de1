"""The scores of every arm: of each task and metric, by seed and problem.

Axes: S seeds, N problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shared.comparison.grid.found import Found, Outcome
from shared.evaluation.results.of_problems import (
    ProblemResult,
    bits_per_byte,
    pass_values,
)

BITS = "bits_per_byte"
VALIDATION = "validation"  # the task that measures documents, which are no problems


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of each problem: a task and a metric.

    Attributes:
      k: of pass@k; 0 for the bits per byte of reference solutions.
      primary: whether it decides the comparison.
    """

    task: str
    k: int = 0
    primary: bool = False

    @property
    def metric(self) -> str:
        """What it is called in files and on the command line."""
        return f"pass@{self.k}" if self.k else BITS

    @property
    def words(self) -> str:
        return self.metric.replace("_", " ")

    @property
    def name(self) -> str:
        return f"{self.words} of {self.task}"

    @property
    def share(self) -> bool:
        """Whether its values are in [0, 1]."""
        return self.k > 0

    @property
    def good(self) -> int:
        """The sign of a difference that is an improvement."""
        return 1 if self.k else -1

    def values(self, results: Sequence[ProblemResult]) -> list[float]:
        """Its value of each problem.

        Raises:
          ValueError: if a problem has none.
        """
        return pass_values(results, self.k) if self.k else bits_per_byte(results)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an arm scores in one measure.

    Attributes:
      seeds: of the rows; None for the one row of an arm that has no seeds.
      problems: ids, of the columns.
      score_SN: [S, N].
      samples: of a problem; 0 where nothing is written.
      left_out: names of runs whose results are of other problems than the first's.
    """

    arm: str
    seeds: tuple[int | None, ...]
    problems: tuple[str, ...]
    score_SN: np.ndarray
    samples: int
    left_out: tuple[str, ...] = ()


def measures_of(found: Found) -> list[Measure]:
    """What any run has scores for, the primary ones first.

    Bits per byte are primary: a number of each problem tells more of small models than
    right or wrong does. They are taken of all tasks of problems, or of the validation
    split where there is no such task; pass@1 decides where nothing has bits.
    """
    bits, passes = [], []
    for task in found.plan.tasks:
        held = [x.results[task] for x in found.outcomes if x.results.get(task)]
        if any(all(r.bits is not None for r in results) for results in held):
            bits.append(task)
        if any(all(r.n for r in results) for results in held):
            passes.append(task)
    of_problems = [task for task in bits if task != VALIDATION]
    first = of_problems or bits
    found_ones = [Measure(task=task, primary=task in first) for task in bits]
    for task in passes:
        for k in dict.fromkeys((1, *found.plan.ks)):
            found_ones.append(Measure(task=task, k=k, primary=not bits and k == 1))
    return sorted(found_ones, key=lambda x: not x.primary)


def scores_of(found: Found, arm: str, measure: Measure) -> Scores | None:
    """What an arm scores, of every run of it that has such results; None without any.

    Runs are of the same problems as the first of them, or they are left out.
    """
    rows: list[list[float]] = []
    seeds: list[int | None] = []
    left_out: list[str] = []
    problems: tuple[str, ...] = ()
    samples = 0
    for outcome in found.of(arm):
        held = _by_id(outcome, measure)
        if held is None:
            continue
        if problems and held.keys() != set(problems):
            left_out.append(outcome.member.name)
            continue
        problems = problems or tuple(held)
        rows.append([held[name] for name in problems])
        seeds.append(outcome.member.seed)
        samples = max(x.n for x in outcome.results[measure.task])
    if not rows:
        return None
    return Scores(
        arm=arm,
        seeds=tuple(seeds),
        problems=problems,
        score_SN=np.asarray(rows, np.float64),
        samples=samples,
        left_out=tuple(left_out),
    )


def why_unscored(found: Found, arm: str, measure: Measure) -> str:
    """Why an arm has no scores, in a few words."""
    outcomes = found.of(arm)
    if not outcomes:
        return "no run of it is planned"
    for outcome in outcomes:
        if results := outcome.results.get(measure.task):
            try:
                measure.values(results)
            except ValueError as error:
                return str(error)
    states = sorted({outcome.state for outcome in outcomes})
    return f"no results of {measure.task} ({', '.join(states)})"


def _by_id(outcome: Outcome, measure: Measure) -> dict[str, float] | None:
    results = outcome.results.get(measure.task)
    if not results:
        return None
    try:
        values = measure.values(results)
    except ValueError:
        return None
    return {x.id: value for x, value in zip(results, values, strict=True)}


def pair(
    first: Scores, second: Scores
) -> tuple[tuple[int | None, ...], np.ndarray, np.ndarray]:
    """The rows of the same seeds and the columns of the same problems.

    An arm without seeds has one row, which stands beside each of the other's.

    Returns:
      seeds, and [S, N] of the first and the second.

    Raises:
      ValueError: if they are of other problems, or share no seed.
    """
    only = set(first.problems) ^ set(second.problems)
    if only:
        raise ValueError(
            f"{len(only)} problems are in the results of only one of {first.arm} and "
            f"{second.arm}"
        )
    column = {name: i for i, name in enumerate(second.problems)}
    order = [column[name] for name in first.problems]
    one, other = first.score_SN, second.score_SN[:, order]
    if None in first.seeds or None in second.seeds:
        seeds = second.seeds if None in first.seeds else first.seeds
        shape = (len(seeds), len(order))
        return seeds, np.broadcast_to(one, shape), np.broadcast_to(other, shape)
    shared = tuple(seed for seed in first.seeds if seed in second.seeds)
    if not shared:
        raise ValueError(
            f"{first.arm} and {second.arm} have finished no seed in common"
        )
    rows = [first.seeds.index(seed) for seed in shared]
    others = [second.seeds.index(seed) for seed in shared]
    return shared, one[rows], other[others]
