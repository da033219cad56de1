"""`train.evaluate`: bits per byte of right answers, of the model of a step."""

from collections.abc import Callable, Iterator
from typing import Any

from shared.config.fields import Config
from shared.data.tokenizer import Tokenizer
from shared.evaluation.in_training import InTraining, Part
from shared.evaluation.results.of_problems import ProblemResult
from shared.evaluation.tasks.solutions import bits_of
from wmtp_torch_mps.model import WMTP
from wmtp_torch_mps.surprise import make_measure

Tasks = Callable[[int, WMTP], dict[str, float]]


def make_tasks(
    cfg: Config,
    parts: tuple[Part, ...],
    tokenizer: Tokenizer,
    num_steps: int,
    stopped: Callable[[], bool],
) -> Tasks:
    """A function `(step, model) -> metrics`, empty where nothing is due.

    Args:
      stopped: whether the run is to end.
    """
    asked = InTraining(cfg, parts, tokenizer, cfg.model.max_positions)

    def tasks(number: int, model: WMTP) -> dict[str, float]:
        if not asked.due(number, num_steps):
            return {}
        measure = make_measure(model)

        def each(part: Part, pairs: list[Any]) -> Iterator[ProblemResult]:
            for problem, ids in pairs:
                yield bits_of(problem, ids, part.form, tokenizer, measure)

        return asked.measure(each, stopped)

    return tasks
