"""What was found for each problem, and what is computed from it alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.evaluation.results.pass_at_k import pass_at_k
from shared.evaluation.verdicts import Verdict


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One sample, and what its program was found to be.

    Attributes:
      text: as the model wrote it, up to a stop string.
      tokens: how many.
      finish: why it ended: `stop` or `length`.
      outcome: of the first test that did not pass (`verdicts.Outcome`), or `passed`.
      error: of that test.
      retried: whether it ran a second time, alone.
    """

    text: str
    tokens: int
    finish: str
    outcome: str
    error: str = ""
    retried: bool = False


@dataclass(frozen=True, kw_only=True)
class HeadMeasure:
    """How one head predicts the reference solution.

    Attributes:
      nll: nats, summed over the targets.
      targets: tokens of the solution that the head predicts.
      right: of them, those that it holds for the most probable.
      rank: of the targets, summed; 1 is the most probable token.
    """

    nll: float
    targets: int
    right: int
    rank: int


@dataclass(frozen=True, kw_only=True)
class ProblemResult:
    """What was found for one problem.

    Attributes:
      id: of the problem.
      n, c: samples, and how many of them are right.
      timed_out: samples that a test ran out of time for.
      level: of the sandbox that they ran in.
      completions: the samples; empty in files of other tools.
      bits, bytes: of the reference solution, given the prompt; None if not measured.
      heads: one measure of each prediction head.
    """

    id: str
    n: int = 0
    c: int = 0
    timed_out: int = 0
    level: str = ""
    completions: tuple[Completion, ...] = ()
    bits: float | None = None
    bytes: int | None = None
    heads: tuple[HeadMeasure, ...] = ()

    def __post_init__(self) -> None:
        """Raises: ValueError, if the numbers cannot be."""
        if not 0 <= self.c <= self.n or not 0 <= self.timed_out <= self.n:
            raise ValueError(
                "c and timed_out must be 0 to n, got "
                f"{self.c} and {self.timed_out} of n = {self.n} ({self.id})"
            )
        if self.bits is not None and not 0 <= self.bits < math.inf:
            raise ValueError(
                f"bits must be >= 0 and finite, got {self.bits} ({self.id})"
            )
        if (self.bits is None) != (self.bytes is None) or self.bytes == 0:
            raise ValueError(
                "bits must be of at least one byte, got "
                f"{self.bits} of {self.bytes} ({self.id})"
            )


def judged(
    problem_id: str, verdicts: Sequence[Verdict], texts: Sequence[tuple[str, int, str]]
) -> ProblemResult:
    """The result of a problem's samples.

    Args:
      verdicts: one of each sample's program.
      texts: text, number of tokens and finish of each sample.
    """
    completions = []
    for verdict, (text, tokens, finish) in zip(verdicts, texts, strict=True):
        failed = [x for x in verdict.results if x.outcome != "passed"]
        completions.append(
            Completion(
                text=text,
                tokens=tokens,
                finish=finish,
                outcome=failed[0].outcome if failed else "passed",
                error=failed[0].error if failed else "",
                retried=verdict.retried,
            )
        )
    return ProblemResult(
        id=problem_id,
        n=len(verdicts),
        c=sum(verdict.passed for verdict in verdicts),
        timed_out=sum(verdict.timed_out for verdict in verdicts),
        level=", ".join(sorted({verdict.level for verdict in verdicts})),
        completions=tuple(completions),
    )


def pass_values(results: Sequence[ProblemResult], k: int) -> list[float]:
    """pass@k of each problem.

    Raises:
      ValueError: if k is more than the samples of a problem, naming it.
    """
    for result in results:
        if k > result.n:
            raise ValueError(
                f"pass@{k} must be of at least {k} samples of a problem, got "
                f"{result.n} of {result.id}"
            )
    return [pass_at_k(result.n, result.c, k) for result in results]


def paired(
    first: Sequence[ProblemResult], second: Sequence[ProblemResult]
) -> list[tuple[ProblemResult, ProblemResult]]:
    """The results of the same problems in two files, in the order of the first.

    Raises:
      ValueError: if they are not of the same problems.
    """
    other = {result.id: result for result in second}
    only = sorted({result.id for result in first} ^ other.keys())
    if only:
        names = ", ".join(only[:5]) + ", ..." * (len(only) > 5)
        raise ValueError(
            f"two files must be of the same problems to be paired, got {len(only)} in "
            f"only one of them ({names})"
        )
    return [(result, other[result.id]) for result in first]


def bits_per_byte(results: Sequence[ProblemResult]) -> list[float]:
    """Bits per byte of each problem's reference solution.

    Raises:
      ValueError: if a problem was not measured, naming it.
    """
    values = []
    for result in results:
        if result.bits is None or not result.bytes:
            raise ValueError(f"bits must be measured of each problem, not {result.id}")
        values.append(result.bits / result.bytes)
    return values


def total_bits_per_byte(results: Sequence[ProblemResult]) -> float:
    """All bits over all bytes, in which long solutions count more.

    It is `bits_per_byte` of lm-evaluation-harness. Tables and intervals have the mean
    over problems, in which each counts alike, as in pass@k.

    Raises:
      ValueError: as `bits_per_byte`, or if there is no problem.
    """
    bits_per_byte(results)
    if not results:
        raise ValueError("bits must be of at least one problem, got none")
    bits = sum(result.bits or 0 for result in results)
    return bits / sum(result.bytes or 0 for result in results)


def nll_per_head(results: Sequence[ProblemResult]) -> list[float]:
    """Mean nll over all targets of each head, in nats; of no heads, none.

    A head without any target ends the list.
    """
    found = []
    for of in by_head(results):
        targets = sum(one.targets for one in of)
        if targets == 0:
            break
        found.append(sum(one.nll for one in of) / targets)
    return found


def by_head(results: Sequence[ProblemResult]) -> list[list[HeadMeasure]]:
    """The measures of each head, of the problems that were measured."""
    measured = [result.heads for result in results if result.heads]
    return [list(of) for of in zip(*measured, strict=True)]
