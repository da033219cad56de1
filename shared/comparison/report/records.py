"""`results.jsonl`: every number of the report, as one JSON object a line.

| kind | one line of each |
|---|---|
| `score` | arm, measure and seed; without a seed, of all seeds |
| `difference` | pair of arms and measure |
| `run` | planned run |
| `cost`, `weights` | trained arm |
| `head` | arm, task and head: nll, and how often it agrees with the model |
| `curve` | arm and step of validation: nll over seeds |

All of it can be computed again from the files of the runs.
"""

import json
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from shared.comparison.differences import Comparison
from shared.comparison.grid.found import Found, Outcome
from shared.comparison.report.curves import (
    AXES,
    cost_record,
    curve,
    last_nll,
    seconds_per_step,
    weights_record,
)
from shared.comparison.scores import Measure, Scores, measures_of, scores_of
from shared.comparison.statistics.differences import difference
from shared.evaluation.results.intervals import Interval, mean_interval, wilson
from shared.evaluation.results.of_problems import by_head, nll_per_head
from shared.run.validation import VALIDATION_NLL

Record = dict[str, Any]


def records_of(found: Found, comparisons: Sequence[Comparison]) -> list[Record]:
    """All lines, in the order of the table above."""
    held = [
        line
        for measure in measures_of(found)
        for arm in found.plan.arms
        for line in _scores(found, arm.name, measure)
    ]
    held += [_difference(one) for one in comparisons]
    held += [_run(outcome) for outcome in found.outcomes]
    for arm in found.plan.arms:
        if arm.kind == "trained":
            held.append(cost_record(found, arm.name))
            if weights := weights_record(found, arm.name):
                held.append(weights)
    for arm in found.plan.arms:
        held += _heads(found, arm.name)
    for arm in found.plan.arms:
        held += _curve(found, arm.name)
    return held


def as_lines(records: Sequence[Record]) -> str:
    """One JSON object a line; null for a number that is not finite."""
    return "".join(
        json.dumps({name: _plain(x) for name, x in record.items()}, allow_nan=False)
        + "\n"
        for record in records
    )


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scores(found: Found, arm: str, measure: Measure) -> list[Record]:
    scores = scores_of(found, arm, measure)
    if scores is None:
        return []
    start = {
        "kind": "score",
        "arm": arm,
        "task": measure.task,
        "metric": measure.metric,
    }
    rows: list[tuple[int | None, int, Interval]] = []
    if len(scores.seeds) > 1:
        rows.append((None, len(scores.seeds), _over_seeds(scores, measure)))
    for seed, score_N in zip(scores.seeds, scores.score_SN, strict=True):
        rows.append((seed, 1, _of_one(score_N, scores, measure)))
    return [
        start
        | {"seed": seed, "seeds": seeds}
        | {"value": of.value, "low": of.low, "high": of.high}
        | {"problems": len(scores.problems), "samples": scores.samples}
        for seed, seeds, of in rows
    ]


def _of_one(score_N: np.ndarray, scores: Scores, measure: Measure) -> Interval:
    """Over problems, as `evaluate` shows it."""
    if measure.share and scores.samples == 1:
        return wilson(round(float(score_N.sum())), len(score_N))
    return mean_interval(score_N.tolist(), share=measure.share)


def _over_seeds(scores: Scores, measure: Measure) -> Interval:
    """Over seeds and problems: a difference to 0."""
    zero_SN = np.zeros_like(scores.score_SN)
    of = difference(scores.score_SN, zero_SN, share=measure.share).interval
    if not measure.share:
        return of
    return Interval(of.value, max(0.0, of.low), min(1.0, of.high))


def _difference(one: Comparison) -> Record:
    record: Record = {
        "kind": "difference",
        "task": one.measure.task,
        "metric": one.measure.metric,
        "primary": one.measure.primary,
        "first": one.first.name,
        "second": one.second.name,
        "to": one.to,
        "verdict": one.verdict,
        "why": one.why,
        "seeds": list(one.seeds),
    }
    if (of := one.found) is None:
        return record
    return record | {
        "value": of.interval.value,
        "low": of.interval.low,
        "high": of.interval.high,
        "p": of.p,
        "p_holm": one.p_holm,
        "problems": of.problems,
        "win": of.wins,
        "tie": of.ties,
        "loss": of.losses,
        "better": of.better.value,
        "better_low": of.better.low,
        "better_high": of.better.high,
        "smallest": one.smallest,
        "mcnemar": one.mcnemar.p,
        "why_no_mcnemar": one.mcnemar.why,
        "wilcoxon": one.wilcoxon.p,
        "why_no_wilcoxon": one.wilcoxon.why,
        "over_seeds": one.over_seeds.p,
        "why_no_over_seeds": one.over_seeds.why,
    }


def _run(outcome: Outcome) -> Record:
    summary, member = outcome.summary, outcome.member
    return {
        "kind": "run",
        "name": member.name,
        "arm": member.arm,
        "seed": member.seed,
        "state": outcome.state,
        "why": outcome.why,
        "steps": summary.get("steps"),
        "seconds": summary.get("seconds"),
        "seconds_per_step": seconds_per_step(outcome),
        "peak_memory_mib": summary.get("peak_memory_mib"),
        "validation_nll": last_nll(outcome),
        "device": summary.get("device"),
    }


def _heads(found: Found, arm: str) -> list[Record]:
    """Head 0 predicts the next token itself: there is nothing that it agrees with."""
    outcomes = found.of(arm)
    agreements: dict[int, list[Record]] = {}
    for outcome in outcomes:
        for k, of in enumerate(outcome.acceptance, start=1):
            agreements.setdefault(int(of.get("head", k)), []).append(of)
    held: list[Record] = []
    for task in found.plan.tasks:
        measured = [x.results[task] for x in outcomes if x.results.get(task)]
        nlls = [nll for nll in map(nll_per_head, measured) if nll]
        targets = (
            [sum(x.targets for x in of) for of in by_head(measured[0])] if nlls else []
        )
        for k in range(max(map(len, nlls), default=0)):
            held.append(
                {
                    "kind": "head",
                    "arm": arm,
                    "task": task,
                    "head": k,
                    "seeds": len(nlls),
                    "nll": fmean(nll[k] for nll in nlls if k < len(nll)),
                    "targets": targets[k] if k < len(targets) else None,
                }
            )
    for k, of_seeds in sorted(agreements.items()):
        held.append(
            {
                "kind": "head",
                "arm": arm,
                "task": None,
                "head": k,
                "seeds": len(of_seeds),
                "agreement": fmean(of["agreement"] for of in of_seeds),
                "control": fmean(of["control"] for of in of_seeds),
                "positions": sum(of["positions"] for of in of_seeds),
            }
        )
    return held


def _curve(found: Found, arm: str) -> list[Record]:
    of = curve(found, arm, VALIDATION_NLL)
    if of is None:
        return []
    return [
        {"kind": "curve", "arm": arm, "seeds": of.seeds}
        | {name: float(of.x[name][i]) for name in AXES}
        | {"mean": float(of.mean_P[i])}
        | {"lowest": float(of.low_P[i]), "highest": float(of.high_P[i])}
        for i in range(len(of.mean_P))
    ]
