"""What a reader of a comparison must know beside its answers."""

from collections.abc import Sequence

from shared.comparison.differences import LEVEL, Comparison
from shared.comparison.formats import counted, listed
from shared.comparison.grid.found import Found
from shared.comparison.scores import VALIDATION, measures_of, scores_of


def cautions(found: Found, comparisons: Sequence[Comparison]) -> list[str]:
    """What a reader must know beside the answers; nothing that is missing is hidden."""
    told = [*not_there(found), *_left_out(found)]
    seeds = {x.seed for x in found.plan.members if x.seed is not None}
    if len(seeds) == 1:
        told.append(
            "There is only 1 seed: seeds were not sampled, and no interval says what "
            "another one would give."
        )
    told += contamination(found)
    number = sum(1 for x in comparisons if x.measure.primary and x.found)
    if number:
        told.append(
            f"Brackets are 95 % intervals. Better and worse: p < {LEVEL} after Holm's "
            f"adjustment over all {counted(number, 'primary comparison')}."
        )
    return told


def not_there(found: Found) -> list[str]:
    """Runs that failed or are missing: how many, of which arm, and why."""
    absent = [x for x in found.outcomes if x.state != "finished"]
    if not absent:
        return []
    whole = len(found.outcomes)
    verb = "is" if len(absent) == 1 else "are"
    told = [f"{len(absent)} of {counted(whole, 'run')} {verb} not finished:"]
    groups: dict[tuple[str, str, str], list[str]] = {}
    for x in absent:
        seed = "" if x.member.seed is None else str(x.member.seed)
        groups.setdefault((x.member.arm, x.state, x.why), []).append(seed)
    for (arm, state, why), seeds in groups.items():
        named = [seed for seed in seeds if seed]
        of = f" (seed{'s' * (len(named) > 1)} {listed(named)})" if named else ""
        reason = f": {why}" if why else ""
        told.append(f"  {arm}: {len(seeds)} {state}{of}{reason}")
    return told


def _left_out(found: Found) -> list[str]:
    told = []
    for measure in measures_of(found):
        for arm in found.plan.arms:
            scores = scores_of(found, arm.name, measure)
            if scores is not None and scores.left_out:
                told.append(
                    f"{measure.name}: {listed(list(scores.left_out))} left out, of "
                    f"other problems than the first run of {arm.name}"
                )
    return told


def contamination(found: Found) -> list[str]:
    """How many training documents share text with the problems, by task."""
    told = []
    for task in found.plan.tasks:
        if task == VALIDATION:
            continue  # no problems of a benchmark
        held = [
            x.settings[task]["contaminated"]
            for x in found.outcomes
            if x.settings.get(task, {}).get("contaminated") is not None
        ]
        if held:
            verb = "shares" if max(held) == 1 else "share"
            number = counted(max(held), "training document")
            told.append(f"Contamination: {number} {verb} text with {task}.")
        elif any(task in x.results for x in found.outcomes):
            told.append(f"Contamination: not known of {task}.")
    return told
