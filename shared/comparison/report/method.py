"""How a comparison was made: all that a reader needs to make it again."""

import shlex
from collections.abc import Iterable
from typing import Any

from shared.comparison.answers import is_algorithm
from shared.comparison.formats import NONE, counted, large
from shared.comparison.grid.found import Found
from shared.comparison.report.tables import Table

STATISTICS = (
    "Problems and seeds are the sample. Two arms are paired by seed and by problem; "
    "the interval of a mean or a difference covers other seeds and other problems of "
    "the same kind. P values of the primary comparisons are adjusted together (Holm), "
    "those of all secondary ones together, too; better and worse mean that the "
    "adjusted p is below 0.05. A run counts in every task that it has all results of."
)


def method_table(found: Found) -> Table:
    """Budget, seeds, model, data, machine."""
    plan, budget = found.plan, found.plan.budget
    seeds = sorted({x.seed for x in plan.members if x.seed is not None})
    preparing = {"counts": "is taken off it", "told": "is told, and not taken off it"}
    rows = [
        ("model", plan.model),
        ("data", plan.data),
        ("trainer", plan.backend),
        (
            "budget",
            f"{large(budget.amount)} {budget.kind} for every arm; what comes before "
            f"the first step {preparing[budget.preparing]}",
        ),
        ("seeds", ", ".join(map(str, seeds)) or NONE),
        ("tasks", ", ".join(plan.tasks) or NONE),
        ("pass@k", ", ".join(map(str, plan.ks)) or NONE),
        ("options of training", shlex.join(plan.options) or NONE),
        ("options of evaluation", shlex.join(plan.evaluate) or NONE),
        *((name, str(value)) for name, value in plan.machine.items()),
    ]
    devices = _all(x.summary.get("device") for x in found.outcomes)
    versions = _all(
        f"{name} {version}"
        for x in found.outcomes
        for name, version in (x.summary.get("versions") or {}).items()
    )
    rows += [("device", devices), ("versions", versions)]
    rows += [("contamination", text) for text in _contamination(found)]
    return Table(
        name="setting",
        caption="Setting",
        columns=("what", "value"),
        rows=tuple(rows),
        texts=2,
    )


def _contamination(found: Found) -> list[str]:
    """What training documents share with benchmarks, by the runs' own summaries."""
    told: dict[str, None] = {}
    for outcome in found.outcomes:
        held = outcome.summary.get("contamination") or {}
        for name, of in (held.get("benchmarks") or {}).items():
            number = f"{of.get('documents')} of {held.get('documents')}"
            told[f"{number} training documents share text with {name}"] = None
    return list(told)


def arms_table(found: Found) -> Table:
    """What every arm is."""
    rows = []
    for arm in found.plan.arms:
        kind = "control" if arm.of else "algorithm" if is_algorithm(arm) else arm.kind
        number = counted(len(found.of(arm.name)), "run")
        rows.append((arm.name, arm.doc, kind, number, shlex.join(arm.options) or NONE))
    return Table(
        name="arms",
        caption="Arms",
        columns=("arm", "what it is", "kind", "runs", "options"),
        rows=tuple(rows),
        texts=5,
    )


# Settings of a task that every run shares, and what they are called.
SETTINGS = {
    "source": "source",
    "split": "split",
    "num_problems": "problems",
    "form": "prompt form",
    "prompts_digest": "digest of the prompts",
    "sampling": "sampling",
    "samples": "samples of a problem",
    "max_tokens": "tokens at most",
    "level": "sandbox",
    "limits": "limits",
    "dtype": "dtype",
    "contaminated": "contaminated training documents",
    "versions": "versions",
}


def tasks_table(found: Found) -> Table:
    """What decided the numbers of each task."""
    tasks = found.plan.tasks
    rows = [
        (
            name,
            *(
                _all(
                    _text(x.settings[task].get(key))
                    for x in found.outcomes
                    if x.settings.get(task)
                )
                for task in tasks
            ),
        )
        for key, name in SETTINGS.items()
    ]
    late = [
        str(
            sum(
                result.timed_out
                for x in found.outcomes
                for result in x.results.get(task, ())
            )
        )
        for task in tasks
    ]
    return Table(
        name="tasks",
        caption="Tasks",
        columns=("what", *tasks),
        rows=(*rows, ("samples that ran out of time", *late)),
        texts=1 + len(tasks),
        note="Where runs differ, each of their values is named.",
    )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {x}" for name, x in value.items())
    return "" if value is None else str(value)


def _all(values: Iterable[Any]) -> str:
    found = dict.fromkeys(str(x) for x in values if x not in (None, ""))
    return "; ".join(found) or NONE


def commands(found: Found) -> list[tuple[str, str]]:
    """The command of every run that is trained, by its name."""
    return [
        (x.name, f"python -m {shlex.join(x.command)}")
        for x in found.plan.members
        if x.command
    ]
