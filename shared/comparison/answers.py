"""What a comparison says, in plain words: no more than its intervals allow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shared.algorithms import PLAIN
from shared.comparison import formats
from shared.comparison.cautions import cautions
from shared.comparison.differences import Comparison, Verdict, comparisons_of
from shared.comparison.formats import counted, listed
from shared.comparison.grid.arms import NTP, Arm
from shared.comparison.grid.found import Found
from shared.comparison.scores import Measure, measures_of

QUESTION = "Does weighting the targets help?"


@dataclass(frozen=True)
class Sentence:
    """One answer.

    Attributes:
      verdict: of the comparison that it tells of.
    """

    text: str
    verdict: Verdict


@dataclass(frozen=True)
class Answer:
    """All that is said of one arm in one measure."""

    arm: Arm
    measure: Measure
    sentences: tuple[Sentence, ...]


def is_algorithm(arm: Arm) -> bool:
    """Whether it weighs targets: trained, no control, and not one of the plain two."""
    return arm.kind == "trained" and not arm.of and arm.name not in (NTP, PLAIN)


def lines(found: Found, comparisons: Sequence[Comparison] | None = None) -> list[str]:
    """The first screen: the question, what is answered, and what is not there.

    Args:
      comparisons: of `comparisons_of`, if they are at hand.
    """
    held = comparisons_of(found) if comparisons is None else comparisons
    told = [QUESTION, setting(found), "", *headlines(found, held)]
    for answer in answers(found, held):
        told += [f"  {sentence.text}" for sentence in answer.sentences]
    return [*told, "", *cautions(found, held)]


def setting(found: Found) -> str:
    """What was compared, under what budget."""
    plan = found.plan
    budget = plan.budget
    amount = formats.large(budget.amount)
    preparing = "taken off it" if budget.preparing == "counts" else "not counted"
    trained = [arm for arm in plan.arms if arm.kind == "trained"]
    seeds = {x.seed for x in plan.members if x.seed is not None}
    return (
        f"{plan.model}, trained on {plan.data} with {plan.backend}: "
        f"{counted(len(trained), 'trained arm')}, "
        f"{counted(len(seeds), 'seed')} each; {amount} {budget.kind} for every one, "
        f"what comes before the first step {preparing}."
    )


def headlines(found: Found, comparisons: Sequence[Comparison]) -> list[str]:
    """One sentence a primary measure: which algorithms win, and whether over noise."""
    algorithms = [arm.name for arm in found.plan.arms if is_algorithm(arm)]
    measures = [x for x in measures_of(found) if x.primary]
    if not measures:
        return ["Nothing is answered: no run has left a result."]
    return [_headline(algorithms, x, comparisons) for x in measures]


def _headline(
    algorithms: Sequence[str], measure: Measure, comparisons: Sequence[Comparison]
) -> str:
    own = [x for x in comparisons if x.measure == measure and x.found]
    goal = NTP if any(x.to == "ntp" for x in own) else PLAIN
    words = {NTP: f"plain next-token training ({NTP})"}.get(goal, goal)
    tried = [x for x in own if x.first.name in algorithms and x.second.name == goal]
    better = [x.first for x in tried if x.verdict == "better"]
    start = f"In {measure.name}, "
    if not tried:
        return f"{start}no algorithm could be compared with {words}."
    if not better:
        return f"{start}no algorithm is seen to be better than {words}."
    told = [
        f"{arm.name} is better than {words}{_and_controls(arm, own)}" for arm in better
    ]
    return f"{start}{'; '.join(told)}."


def _and_controls(arm: Arm, own: Sequence[Comparison]) -> str:
    """Whether a winner beats its own controls, too."""
    held = [x for x in own if x.first == arm and x.to == "control"]
    beaten = [x.second.control for x in held if x.verdict == "better"]
    others = [x.second.control for x in held if x.verdict != "better"]
    if not held:
        return ", without a control that could tell its weights from noise"
    if not others:
        return f" and than its own controls ({listed(beaten)})"
    if not beaten:
        return f", but not seen to be better than its own controls ({listed(others)})"
    return (
        f" and than its own control {listed(beaten)}, but not seen to be better than "
        f"{listed(others)}"
    )


def answers(
    found: Found, comparisons: Sequence[Comparison], *, primary: bool = True
) -> list[Answer]:
    """What is said of each arm that is no control: algorithms first.

    Args:
      primary: of the primary measures, or of the others.
    """
    arms = [arm for arm in found.plan.arms if not arm.of]
    arms.sort(key=lambda arm: not is_algorithm(arm))
    held = []
    for measure in measures_of(found):
        own = [x for x in comparisons if x.measure == measure]
        for arm in arms if measure.primary == primary else ():
            if told := _sentences(arm, own):
                held.append(Answer(arm, measure, tuple(told)))
    return held


def _sentences(arm: Arm, own: Sequence[Comparison]) -> list[Sentence]:
    told = []
    for one in own:
        if one.first != arm:
            continue
        text = sentence(one)
        if one.to == "ntp" and one.verdict == "better":
            text += _of_controls(arm.name, own)
        secondary = "" if one.measure.primary else "Secondary: "
        told.append(Sentence(f"{secondary}{text}.", one.verdict))
    return told


def sentence(one: Comparison) -> str:
    """What one comparison says, without a full stop."""
    first, second = one.first.name, one.second.name
    if one.found is None:
        return (
            f"{first} could not be compared with {second} in {one.measure.name}: "
            f"{one.why}"
        )
    share, of = one.measure.share, one.found.interval
    numbers = len(one.seeds)
    sample = f"{counted(numbers, 'seed')}, {counted(one.found.problems, 'problem')}"
    if one.seeds == (None,):
        sample = f"one evaluation, {counted(one.found.problems, 'problem')}"
    if one.verdict in ("better", "worse"):
        sign = 1 if of.value > 0 else -1
        ends = sorted((sign * of.low, sign * of.high))
        size = formats.interval(sign * of.value, *ends, share=share)
        text = (
            f"{first} is {one.verdict} than {second} by {size} "
            f"{_unit(one.measure)}, {sample}"
        )
    else:
        shown = formats.interval(of.value, of.low, of.high, share=share)
        text = (
            f"No difference seen between {first} and {second}: {shown} "
            f"{_unit(one.measure)}, {sample}{_why_not_seen(one)}"
        )
    return text + _of_scores(one)


def _unit(measure: Measure) -> str:
    return f"points of {measure.name}" if measure.share else measure.name


def _why_not_seen(one: Comparison) -> str:
    """What could have been seen; that the interval alone would say another thing."""
    assert one.found is not None
    of, text = one.found.interval, ""
    if of.low > 0 or of.high < 0:
        text = (
            "; alone it would count as one, among so many comparisons it does not "
            f"(p {formats.chance(one.p_holm)} after Holm)"
        )
    if one.smallest is not None and math.isfinite(one.smallest):
        size = formats.size(one.smallest, of.low, of.high, share=one.measure.share)
        text += (
            f"; an effect of {size} would have been seen in 8 of 10 such comparisons"
        )
    return text


def _of_scores(one: Comparison) -> str:
    """What it means that an algorithm is no better than its own control."""
    if one.to != "control" or one.verdict == "better":
        return ""
    if one.second.control == "shuffle":
        return (
            "; it is not shown that its weights carry information that the "
            "shuffled ones lack"
        )
    return "; it is not shown that its scores do more than noise does"


def _of_controls(name: str, own: Sequence[Comparison]) -> str:
    """Whether the controls of a winner win as well."""
    controls = [x for x in own if x.to == "ntp" and x.first.of == name and x.found]
    parts = [
        f"its control {x.first.control} "
        f"{'is as well' if x.verdict == 'better' else 'is not'}"
        for x in controls
    ]
    return f"; {listed(parts)}" if parts else ""


def regressions(
    found: Found,
    metric: str,
    tolerance: float,
    comparisons: Sequence[Comparison] | None = None,
) -> list[str]:
    """The algorithms that are shown to be worse than `baseline` by more than this.

    Worse is shown where the whole interval is: the bound on the good side is beyond
    the tolerance too, and with it the estimate. `baseline` has the same heads and the
    same budget, so that only the weights can be at fault; against the untouched model
    it would be asked whether training helps, which is another question. An algorithm
    that could not be compared is none of them; the runs say why.

    Args:
      metric: `bits_per_byte` or `pass@K`, of every task that has it.
      tolerance: in the metric's unit, pass@k in [0, 1].
      comparisons: of `comparisons_of`, if they are at hand.

    Returns:
      A line of each; without any regression none.

    Raises:
      ValueError: for another metric, a tolerance that is not >= 0, or a comparison
        without `baseline`.
    """
    names = list(dict.fromkeys(x.metric for x in measures_of(found)))
    if metric not in names:
        raise ValueError(f"the metric must be of {', '.join(names)}, got {metric!r}")
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"the tolerance must be a number >= 0, got {tolerance}")
    if all(arm.name != PLAIN for arm in found.plan.arms):
        raise ValueError(f"a regression is one against {PLAIN}, which is not compared")
    algorithms = {arm.name for arm in found.plan.arms if is_algorithm(arm)}
    told = []
    for x in comparisons_of(found) if comparisons is None else comparisons:
        asked = x.measure.metric == metric and x.second.name == PLAIN
        if not asked or x.first.name not in algorithms or x.found is None:
            continue
        of = x.found.interval
        least = of.low if x.measure.good < 0 else -of.high
        if least > tolerance:
            shown = formats.interval(of.value, of.low, of.high, share=x.measure.share)
            told.append(
                f"{x.first.name} is worse than {PLAIN} by more than {tolerance:g}: "
                f"{shown} {_unit(x.measure)}"
            )
    return told
