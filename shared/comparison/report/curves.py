"""What training has logged of every arm, over seeds: curves, weights, costs.

Axes: S seeds, P steps at which something was logged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from shared.algorithms import PLAIN
from shared.comparison.grid.found import Found, Outcome, Share, is_trained
from shared.run.validation import VALIDATION_NLL
from shared.tracking.tracking import Metrics

AXES = ("steps", "tokens", "seconds")
WEIGHTS = (
    "weight_min",
    "weight_mean",
    "weight_max",
    "weight_entropy",
    "weight_ess",
    "kept_fraction",
)


@dataclass(frozen=True)
class Curve:
    """One metric of an arm along training.

    Attributes:
      x: [P] by name of the axis, the mean over seeds.
      mean_P, low_P, high_P: over seeds, the last two the lowest and the highest one.
      seeds: how many.
    """

    arm: str
    x: dict[str, np.ndarray]
    mean_P: np.ndarray
    low_P: np.ndarray
    high_P: np.ndarray
    seeds: int


def trained(found: Found, arm: str) -> list[Outcome]:
    """The runs of a trained arm that have come to their end.

    One that broke off tells nothing of where the arm arrives; the untouched model may
    be the start of a run of one step.
    """
    kinds = {x.name: x.kind for x in found.plan.arms}
    if kinds.get(arm) != "trained":
        return []
    return [x for x in found.of(arm) if is_trained(found.folder, x.member)]


def curve(found: Found, arm: str, metric: str) -> Curve | None:
    """A metric at the steps at which every run of the arm has logged it.

    Tokens and seconds begin with what comes before the first step; seconds leave out
    evaluations.
    """
    logged = [x.metrics for x in trained(found, arm)]
    runs = [rows for rows in logged if any(metric in row for row in rows)]
    rows = [
        {int(row["step"]): row[metric] for row in run if metric in row} for run in runs
    ]
    if not rows:
        return None
    steps = sorted(set.intersection(*(set(of) for of in rows)))
    if not steps:
        return None
    share = found.plan.shares.get(arm)
    spent = [_spent(run, share) for run in runs]
    value_SP = np.array([[of[step] for step in steps] for of in rows], np.float64)
    x = {"steps": np.array(steps, np.float64)}
    for name in AXES[1:]:
        x_SP = np.array([[of[name].get(step, 0.0) for step in steps] for of in spent])
        x[name] = x_SP.mean(0)
    return Curve(arm, x, value_SP.mean(0), value_SP.min(0), value_SP.max(0), len(rows))


def _spent(rows: Sequence[Metrics], share: Share | None) -> dict[str, dict[int, float]]:
    """Tokens and seconds up to each step, those before the first included."""
    tokens = share.before.tokens if share else 0.0
    seconds = (share.before.seconds or 0.0) if share else 0.0
    found: dict[str, dict[int, float]] = {"tokens": {}, "seconds": {}}
    for row in rows:
        took = row.get("seconds", 0.0)
        seconds += took
        tokens += took * row.get("tokens_per_s", 0.0)
        found["tokens"][int(row["step"])] = tokens
        found["seconds"][int(row["step"])] = seconds
    return found


def seconds_per_step(outcome: Outcome) -> float | None:
    """The median over steps; the first, which compiles, is left out of several."""
    seconds = [row["seconds"] for row in outcome.metrics if "seconds" in row]
    return median(seconds[1:] or seconds) if seconds else None


def last_nll(outcome: Outcome) -> float | None:
    """Validation nll after the last step that it was measured at."""
    found = [row[VALIDATION_NLL] for row in outcome.metrics if VALIDATION_NLL in row]
    return found[-1] if found else None


def steps_to(outcome: Outcome, nll: float) -> int | None:
    """The first step after which validation nll is no more than this."""
    for row in outcome.metrics:
        if VALIDATION_NLL in row and row[VALIDATION_NLL] <= nll:
            return int(row["step"])
    return None


def cost_record(found: Found, arm: str) -> dict[str, Any]:
    """What an arm takes: means over seeds, of memory the most.

    `reached` counts the seeds whose validation nll came down to that with which the
    run of `baseline` of the same seed ends; `steps_to_baseline` is their mean.
    """
    outcomes = trained(found, arm)
    share = found.plan.shares.get(arm)
    aims = {x.member.seed: last_nll(x) for x in trained(found, PLAIN)}
    steps, aimed = [], 0
    for outcome in outcomes:
        aim = aims.get(outcome.member.seed)
        if aim is None or not outcome.metrics:
            continue
        aimed += 1
        if (reached := steps_to(outcome, aim)) is not None:
            steps.append(reached)
    memory = [x.summary.get("peak_memory_mib") for x in outcomes]
    before = share.before if share else None
    return {
        "kind": "cost",
        "arm": arm,
        "seeds": len([x for x in outcomes if x.metrics]),
        "steps": share.steps if share else None,
        "step_tokens": share.step.tokens if share else None,
        "step_flops": share.step.flops if share else None,
        "seconds_per_step": _mean(seconds_per_step(x) for x in outcomes),
        "peak_memory_mib": max((x for x in memory if x is not None), default=None),
        "before_steps": before.steps if before else None,
        "before_tokens": before.tokens if before else None,
        "before_flops": before.flops if before else None,
        "before_seconds": before.seconds if before else None,
        "validation_nll": _mean(last_nll(x) for x in outcomes),
        "steps_to_baseline": fmean(steps) if steps else None,
        "reached": len(steps),
        "aimed": aimed,
    }


def weights_record(found: Found, arm: str) -> dict[str, Any] | None:
    """Means over all steps and seeds of what is logged of the weights."""
    rows = [row for x in trained(found, arm) for row in x.metrics if WEIGHTS[0] in row]
    if not rows:
        return None
    means = {name: _mean(row.get(name) for row in rows) for name in WEIGHTS}
    return {"kind": "weights", "arm": arm, "rows": len(rows)} | means


def _mean(values: Iterable[float | int | None]) -> float | None:
    held = [float(value) for value in values if value is not None]
    return fmean(held) if held else None
