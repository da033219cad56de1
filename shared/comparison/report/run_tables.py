"""Tables of what the runs took and left beside their scores."""

from collections.abc import Sequence

from shared.comparison.formats import NONE, large, number
from shared.comparison.grid.found import Found
from shared.comparison.report.records import Record
from shared.comparison.report.tables import Table, select, whole


def cost_table(records: Sequence[Record]) -> Table:
    """What every trained arm took."""
    rows = []
    for x in select(records, kind="cost"):
        reached = NONE
        if x["aimed"]:
            reached = f"{number(x['steps_to_baseline'], 1)} ({x['reached']} of "
            reached += f"{x['aimed']} seeds)"
        rows.append(
            (
                x["arm"],
                whole(x["steps"]),
                number(x["seconds_per_step"]),
                whole(x["peak_memory_mib"]),
                large(x["step_tokens"]),
                large(x["step_flops"]),
                large(x["before_steps"]),
                large(x["before_tokens"]),
                large(x["before_flops"]),
                number(x["before_seconds"], 1),
                number(x["validation_nll"], 4),
                reached,
            )
        )
    return Table(
        name="costs",
        caption="Cost of every trained arm, means over seeds",
        columns=(
            "arm",
            "steps",
            "s / step",
            "peak MiB",
            "tokens / step",
            "FLOPs / step",
            "steps before",
            "tokens before",
            "FLOPs before",
            "s before",
            "validation nll",
            "steps to baseline's nll",
        ),
        rows=tuple(rows),
        note=(
            "Seconds of a step are the median, without the first, which compiles. "
            "Peak memory is the most of any seed. Before: what precedes the first step "
            "(the reference, passes of frozen models, the value head's first stage), "
            "as planned. The last column: the first step after which validation nll "
            "(head 0) is no more than that with which the baseline of the same seed "
            "ends."
        ),
    )


# The original system's guide, for an M3 Max: seconds of a step, memory, steps until it
# has converged.
ORIGINAL = {
    "baseline": ("~0.8", "~4 GB", "100-200"),
    "critic": ("~1.2", "~5 GB", "150-250"),
    "rho1-weighted": ("~1.0", "~4.5 GB", "100-200"),
    "rho1-tokenskip": ("~0.9", "~4 GB", "80-150"),
}


def original_table(records: Sequence[Record]) -> Table:
    """The table of the original system beside ours."""
    rows = []
    for name, (seconds, memory, steps) in ORIGINAL.items():
        ours = next(iter(select(records, kind="cost", arm=name)), None)
        held = [NONE, NONE, NONE]
        if ours is not None:
            held = [
                number(ours["seconds_per_step"]),
                whole(ours["peak_memory_mib"]),
                number(ours["steps_to_baseline"], 1),
            ]
        rows.append((name, held[0], seconds, held[1], memory, held[2], steps))
    return Table(
        name="original",
        caption="Beside the original system",
        columns=(
            "algorithm",
            "s / step, here",
            "s / step, original",
            "peak MiB, here",
            "memory, original",
            "steps to baseline's nll, here",
            "steps to convergence, original",
        ),
        rows=tuple(rows),
        note=(
            "The original's numbers are those of its test guide, of an M3 Max with "
            "DistilGPT2 and four heads; how they were measured it does not say. "
            "Another machine, another model and another batch: the columns stand "
            "beside each other, they do not race."
        ),
    )


def weights_table(records: Sequence[Record]) -> Table:
    """What the weights of every arm were like."""
    return Table(
        name="weights",
        caption="Weights of targets, means over all steps and seeds",
        columns=(
            "arm",
            "lowest",
            "mean",
            "highest",
            "entropy, nats",
            "effective share",
            "kept share",
        ),
        rows=tuple(
            (
                x["arm"],
                number(x["weight_min"]),
                number(x["weight_mean"]),
                number(x["weight_max"]),
                number(x["weight_entropy"]),
                number(x["weight_ess"]),
                number(x["kept_fraction"]),
            )
            for x in select(records, kind="weights")
        ),
        note=(
            "Lowest and highest of a step. Effective share: the effective sample size, "
            "(sum w)^2 / sum w^2, over the number of targets. Kept: the share of "
            "targets with a weight above 0."
        ),
    )


def heads_table(found: Found, records: Sequence[Record]) -> Table:
    """Nll of every head by task, and how often it agrees with the model."""
    own = select(records, kind="head")
    tasks = [x for x in found.plan.tasks if select(own, task=x)]
    rows = []
    for arm in found.plan.arms:
        of_arm = select(own, arm=arm.name)
        for k in sorted({x["head"] for x in of_arm}):
            of_head = {x["task"]: x for x in select(of_arm, head=k)}
            nlls = [number(of_head.get(x, {}).get("nll"), 4) for x in tasks]
            draft = of_head.get(None, {})
            shares = [number(draft.get(x)) for x in ("agreement", "control")]
            positions = whole(draft.get("positions"))
            rows.append((arm.name, str(k), *nlls, *shares, positions))
    return Table(
        name="heads",
        caption="Every prediction head, means over seeds",
        columns=(
            "arm",
            "head",
            *(f"nll of {task}, nats" for task in tasks),
            "agreement",
            "agreement by chance",
            "positions",
        ),
        rows=tuple(rows),
        note=(
            "Head k predicts the token k + 1 ahead. Agreement: how often head k >= 1 "
            "names the token that the model itself then writes, which is what drafts "
            "are accepted for; by chance: the same against shifted targets."
        ),
    )


def runs_table(records: Sequence[Record]) -> Table:
    """Every planned run, what became of it and what it took."""
    return Table(
        name="runs",
        caption="Every planned run",
        columns=(
            *("run", "arm", "seed", "state", "why"),
            *("steps", "seconds", "s / step", "peak MiB", "validation nll"),
        ),
        rows=tuple(
            (
                x["name"],
                x["arm"],
                NONE if x["seed"] is None else str(x["seed"]),
                x["state"],
                x["why"] or NONE,
                whole(x["steps"]),
                number(x["seconds"], 1),
                number(x["seconds_per_step"]),
                whole(x["peak_memory_mib"]),
                number(x["validation_nll"], 4),
            )
            for x in select(records, kind="run")
        ),
        texts=5,
    )
