"""How much of what a run was trained on has text in common with the problems."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.config.layers import load_config
from shared.data.contamination import hold_against, prints_of
from shared.data.documents import load_examples
from shared.data.examples import Example
from shared.evaluation.tasks.problems import Problem

log = logging.getLogger("wmtp")
TRAINED_ON = ("train", "reference")


def trained_on(run: Path | None) -> dict[str, list[Example]] | None:
    """The examples that a run was trained on; None of no run, or without its data."""
    if run is None:
        return None
    try:
        examples = load_examples(load_config(run / "config.yaml").data)
    except (ValueError, OSError) as error:
        log.warning("contamination is not known: %s", error)
        return None
    return {name: examples[name] for name in TRAINED_ON if name in examples}


def count_contaminated(
    trained: Mapping[str, list[Example]] | None, problems: Sequence[Problem]
) -> int | None:
    """Documents of `trained_on` that share text with problems.

    What a model was trained on before its run is not known, and not counted.

    Returns:
      None if it is not known what the run was trained on.
    """
    if trained is None:
        return None
    prints = prints_of([_example(problem) for problem in problems])
    return len(hold_against(trained, {"problems": prints}).sharing("problems"))


def _example(problem: Problem) -> Example:
    return {
        "id": problem.id,
        "prompt": problem.statement,
        "completion": problem.solution,
    }
