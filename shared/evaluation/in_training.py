"""Tasks that a model is asked while it is trained (`train.evaluate`).

They are those of `evaluate`, in the zero-shot form that training documents have, of the
validation split of the run's own data; a source that is named gives its test split. An
evaluation ends when its time is over: its numbers are then those of the first problems,
and later evaluations ask no more than these, so that steps can be compared.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from shared.config.fields import Config
from shared.data.tokenizer import Tokenizer
from shared.evaluation.asked import BITS
from shared.evaluation.results.of_problems import (
    ProblemResult,
    bits_per_byte,
    pass_values,
)
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import TASKS, Problem
from shared.evaluation.tasks.prompts import FORMS, PromptForm
from shared.evaluation.tasks.solutions import prompt_tokens
from shared.evaluation.walls.levels import Level, SandboxError
from shared.evaluation.walls.probe import level_for

log = logging.getLogger("wmtp")
ENTRY = re.compile(r"([a-z_]+)(?::([1-9][0-9]*))?(?:=(.+))?")
ZERO_SHOT = ("mbpp zero-shot", "humaneval", "contest")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One task.

    Attributes:
      bits: whether reference solutions are measured.
      level: of the sandbox; None where no programs are written.
    """

    task: str
    problems: tuple[Problem, ...]
    form: PromptForm
    bits: bool
    level: Level | None


def read_parts(cfg: Config, *, writes: bool) -> tuple[Part, ...]:
    """What `train.evaluate` asks for: `bits`, `mbpp:50`, `humaneval:20=FOLDER`, ...

    Bits are measured of all tasks that are named beside it; of mbpp, if none is.

    Args:
      writes: whether the trainer can write programs.

    Raises:
      ValueError: if an entry is none of that, its problems cannot be read, or there is
        no sandbox for programs.
    """
    train = cfg.train
    fits = train.evaluate_every % train.eval_every == 0
    needed = f"0 or a multiple of train.eval_every = {train.eval_every}"
    train.require("evaluate_every", fits, needed)
    found: dict[str, tuple[int, str]] = {}
    known = (BITS, *(TASKS if writes else ()))
    for entry in train.evaluate:
        match = ENTRY.fullmatch(entry)
        if match is None or match[1] not in known:
            raise ValueError(
                f"train.evaluate must be of {', '.join(known)}, each maybe with "
                f":COUNT and =SOURCE, got {entry!r}"
            )
        found[match[1]] = int(match[2] or 0), match[3] or ""
    bits = found.pop(BITS, None)
    written = bool(found)
    if bits is not None and not found:
        found["mbpp"] = bits
    try:
        level = level_for(unsafe=False) if written else None
    except SandboxError as error:
        raise ValueError(f"train.evaluate: {error}") from None
    return tuple(
        Part(
            task=task,
            problems=tuple(_problems(cfg, task, limit, source)),
            form=next(x for x in FORMS if task in x.tasks and x.name in ZERO_SHOT),
            bits=bits is not None,
            level=level,
        )
        for task, (limit, source) in found.items()
    )


def _problems(cfg: Config, task: str, limit: int, source: str) -> list[Problem]:
    split = "" if source else "validation"
    try:
        return load_problems(
            task,  # type: ignore[arg-type]
            source or cfg.data.source,
            split=split,
            limit=limit,
        )
    except ValueError as error:
        hint = "" if source else f" ({task}=SOURCE names another)"
        raise ValueError(f"train.evaluate: {error}{hint}") from None


class InTraining:
    """The tasks of a run, asked again and again."""

    def __init__(
        self, cfg: Config, parts: tuple[Part, ...], tokenizer: Tokenizer, most: int
    ) -> None:
        """Leaves out problems without room, and says so.

        Args:
          most: tokens that the model reads.
        """
        self.cfg, self._asked = cfg, []
        for part in parts:
            prompts = prompt_tokens(tokenizer, part.problems, part.form)
            pairs = zip(part.problems, prompts, strict=True)
            fit = [(problem, ids) for problem, ids in pairs if len(ids) < most]
            if len(fit) < len(prompts):
                log.warning(
                    "train.evaluate: %d of %d problems of %s are left out, whose "
                    "prompts leave no room in the model's %d tokens",
                    len(prompts) - len(fit), len(prompts), part.task, most,
                )  # fmt: skip
            self._asked.append((part, fit))

    def due(self, number: int, num_steps: int) -> bool:
        """Whether tasks are asked after this step, at which validation is measured."""
        every = self.cfg.train.evaluate_every or 1
        return bool(self._asked) and (number % every == 0 or number == num_steps)

    def measure(
        self,
        each: Callable[[Part, list[Any]], Iterator[ProblemResult]],
        stopped: Callable[[], bool],
    ) -> dict[str, float]:
        """`eval_pass_at_1_TASK`, `eval_bits_per_byte_TASK` and `eval_problems_TASK`.

        Args:
          each: `(part, pairs of problem and prompt) -> results`, one by one.
          stopped: whether the run is to end; nothing is told then.
        """
        found: dict[str, float] = {}
        end = math.inf
        for number, (part, pairs) in enumerate(self._asked):
            results: list[ProblemResult] = []
            for result in each(part, pairs):
                if stopped():
                    return {}
                results.append(result)
                if time.monotonic() > end:
                    break
                if end == math.inf:  # what is compiled once is not counted
                    end = time.monotonic() + self.cfg.train.evaluate_seconds
            if len(results) < len(pairs):
                self._asked[number] = part, pairs[: len(results)]
                log.warning(
                    "train.evaluate: the %g seconds were over after %d of %d problems "
                    "of %s; from here on only these are asked (train.evaluate_seconds)",
                    self.cfg.train.evaluate_seconds, len(results), len(pairs),
                    part.task,
                )  # fmt: skip
            found |= _metrics(part.task, results)
        return found


def _metrics(task: str, results: list[ProblemResult]) -> dict[str, float]:
    """Means over problems; of no problem, nothing."""
    if not results:
        return {}
    found: dict[str, float] = {"problems": len(results)}
    if all(result.n for result in results):
        found["pass_at_1"] = sum(pass_values(results, 1)) / len(results)
    measured = [result for result in results if result.bits is not None]
    if measured:
        found["bits_per_byte"] = sum(bits_per_byte(measured)) / len(measured)
    return {f"eval_{name}_{task}": x for name, x in found.items()}
