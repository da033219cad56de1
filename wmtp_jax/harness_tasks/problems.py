"""Our problems as documents of lm-evaluation-harness, and how answers are judged."""

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from datasets import Dataset

from shared.evaluation.results.pass_at_k import pass_at_k
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import Problem, judge
from shared.evaluation.tasks.prompts import find_form
from shared.evaluation.walls.levels import SandboxError
from shared.evaluation.walls.probe import level_for
from shared.evaluation.walls.scripts import Case

Document = dict[str, Any]
KS = (1, 10, 100)  # of pass@k, where a problem has so many samples


def load_to_judge(task: str, form: str, **where: Any) -> dict[str, Dataset]:
    """The documents of a task whose answers are run; as `load`.

    Raises:
      ValueError: as `load`, or if there is no sandbox.
    """
    try:
        level_for(unsafe=False)
    except SandboxError as error:
        raise ValueError(str(error)) from None
    return load(task, form, **where)


def load(
    task: str,
    form: str,
    source: str | Mapping[str, str] = "minis",
    split: str = "",
    **_: Any,
) -> dict[str, Dataset]:
    """The documents of a task.

    Args:
      form: of the prompt, one of `shared/evaluation/tasks/prompts.py`.
      source: of all tasks' problems, or of each task by its name: `minis`, a folder, a
        file, as of `python -m wmtp_jax.evaluate`.
      split: of the source, likewise.

    Raises:
      ValueError: if the problems cannot be read.
    """
    asked = find_form(task, form)  # type: ignore[arg-type]
    place = source if isinstance(source, str) else source.get(task, "minis")
    problems = load_problems(task, place, split=split)  # type: ignore[arg-type]
    documents = [
        {
            "id": problem.id,
            "form": form,
            "prompt": asked.text(problem),
            "solution": asked.gold(problem),
            "problem": json.dumps(asdict(problem)),
        }
        for problem in problems
    ]
    return {"test": Dataset.from_list(documents)}


def prompt(doc: Document) -> str:
    return doc["prompt"]


def solution(doc: Document) -> str:
    return doc["solution"]


def all_samples(resps: list[list[str]], docs: list[Document]) -> list[list[str]]:
    """In place of the harness's filter that keeps the first of several samples."""
    return resps


def judged(doc: Document, results: list[list[str]]) -> dict[str, float]:
    """`pass_at_k` of a problem's samples, run in our sandbox; all of them are kept."""
    known = json.loads(doc["problem"])
    cases = tuple(Case(**case) for case in known["cases"])
    problem = Problem(**known | {"cases": cases})
    form = find_form(problem.task, doc["form"])
    programs = [form.program(problem, text) for text in results[0]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {x: pool.submit(judge, problem, x) for x in dict.fromkeys(programs)}
        right = sum(futures[program].result().passed for program in programs)
    n = len(programs)
    return {f"pass_at_{k}": pass_at_k(n, right, k) for k in KS if k <= n}


def bits(doc: Document, results: list[tuple[float, bool]]) -> dict[str, float]:
    """`bits_per_byte` of the reference solution."""
    ((value, _),) = results
    return {"bits_per_byte": -value / math.log(2) / len(doc["solution"].encode())}
