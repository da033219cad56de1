"""How much of what a run was trained on has text in common with the problems."""

import logging
from collections.abc import Sequence
from pathlib import Path

from shared.config.layers import load_config
from shared.data.contamination import hold_against, prints_of
from shared.data.documents import load_examples
from shared.data.examples import Example
from shared.evaluation.tasks.problems import Problem

log = logging.getLogger("wmtp")
TRAINED_ON = ("train", "reference")


def count_contaminated(run: Path | None, problems: Sequence[Problem]) -> int | None:
    """Documents of a run's training and reference splits that share text with problems.

    What a model was trained on before the run is not known, and not counted.

    Returns:
      None if that cannot be told: for a model of no run, or without the run's data.
    """
    if run is None:
        return None
    try:
        examples = load_examples(load_config(run / "config.yaml").data)
    except (ValueError, OSError) as error:
        log.warning("contamination is not known: %s", error)
        return None
    prints = prints_of([_example(problem) for problem in problems])
    trained_on = {name: examples[name] for name in TRAINED_ON if name in examples}
    return len(hold_against(trained_on, {"problems": prints}).sharing("problems"))


def _example(problem: Problem) -> Example:
    return {
        "id": problem.id,
        "prompt": problem.statement,
        "completion": problem.solution,
    }
