"""One task: the model writes programs, the sandbox judges them, solutions are measured.

The engine writes on while programs of earlier problems run; what is known of a problem
is kept at once, in the order of the problems.
"""

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from shared.data.tokenizer import Tokenizer
from shared.decoding.requests import Request, Sampling
from shared.evaluation.kept_results import KeptResults
from shared.evaluation.levels import Level
from shared.evaluation.problems import Problem, judge
from shared.evaluation.prompts import PromptForm
from shared.evaluation.results import ProblemResult, judged
from shared.evaluation.verdicts import Limits, Verdict
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.decoding.surprise import Measure
from wmtp_jax.generate import answers, prompt_ids

AHEAD = 64  # problems whose programs may still run while the engine writes on


@dataclass(frozen=True, kw_only=True)
class How:
    """How problems of one task are asked and judged.

    Attributes:
      samples: programs of a problem; 0 writes none.
      sampling: its seed is that of the first problem, which the number of each is
        added to; `max_tokens` and `stop` are the form's.
      level: of the sandbox.
    """

    form: PromptForm
    samples: int
    sampling: Sampling
    level: Level
    limits: Limits


def prompts_of(
    model: Loaded, problems: Sequence[Problem], form: PromptForm
) -> list[list[int]]:
    """The ids of each problem's prompt."""
    return [
        prompt_ids(
            model.tokenizer, {"prompt": form.text(problem)}, form.chat, problem.id
        )
        for problem in problems
    ]


def evaluate(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    how: How,
    kept: KeptResults,
    *,
    tokenizer: Tokenizer,
    engine: Engine | None,
    measure: Measure | None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Finds what is missing in `kept`, problem by problem.

    Args:
      prompts: ids of each problem's.
      engine: writes the samples, if there are to be any.
      measure: of `surprise.make_measure`, if solutions are to be measured.
    """
    done = len(kept.results)
    left = list(zip(problems, prompts, strict=True))[done:]
    for (problem, ids), result in zip(
        left, _judged(left, done, how, engine), strict=True
    ):
        if measure is not None and problem.solution:
            result = with_bits(result, problem, ids, how.form, tokenizer, measure)
        kept.add(result)
        progress(len(kept.results))


def _judged(
    left: Sequence[tuple[Problem, Sequence[int]]],
    done: int,
    how: How,
    engine: Engine | None,
) -> Iterator[ProblemResult]:
    """The results of the samples of each problem, in order."""
    if engine is None or how.samples == 0:
        for problem, _ in left:
            yield ProblemResult(id=problem.id)
        return
    requests = [
        request_of(how, ids, done + number) for number, (_, ids) in enumerate(left)
    ]
    waiting: deque[tuple[Problem, list[dict[str, Any]], list[Future[Verdict]]]]
    waiting = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = answers(engine, requests, False)
        for (problem, _), completions in zip(left, written, strict=True):
            futures: dict[str, Future[Verdict]] = {}
            for completion in completions:
                program = how.form.program(problem, completion["text"])
                if program not in futures:
                    futures[program] = pool.submit(
                        judge, problem, program, how.limits, level=how.level
                    )
                completion["verdict"] = futures[program]
            waiting.append((problem, completions, list(futures.values())))
            while waiting and (
                len(waiting) > AHEAD or all(x.done() for x in waiting[0][2])
            ):
                yield _result(*waiting.popleft()[:2])
        while waiting:
            yield _result(*waiting.popleft()[:2])


def request_of(how: How, ids: Sequence[int], number: int) -> Request:
    """What the engine is asked for problem `number`, from 0."""
    sampling = replace(
        how.sampling,
        seed=(how.sampling.seed + number) % 2**32,
        stop=how.form.stop,
        max_tokens=how.form.room(len(ids)),
    )
    return Request(prompt=tuple(ids), samples=how.samples, sampling=sampling)


def _result(problem: Problem, completions: Sequence[dict[str, Any]]) -> ProblemResult:
    verdicts = [completion["verdict"].result() for completion in completions]
    texts = [(x["text"], len(x["tokens"]), x["finish"]) for x in completions]
    return judged(problem.id, verdicts, texts)


def with_bits(
    result: ProblemResult,
    problem: Problem,
    ids: Sequence[int],
    form: PromptForm,
    tokenizer: Tokenizer,
    measure: Measure,
) -> ProblemResult:
    """The result with what every head makes of the reference solution.

    Its tokens are those of prompt and solution together behind the prompt's own. Where
    a token would reach over the seam, the solution is spelled by itself.
    """
    gold, ids = form.gold(problem), list(ids)
    together = [] if form.chat else tokenizer.encode(form.text(problem) + gold)
    alike = len(together) > len(ids) and together[: len(ids)] == ids
    text = together[len(ids) :] if alike else tokenizer.spell(gold)
    heads = measure(ids, text)
    return replace(
        result,
        bits=heads[0].nll / math.log(2),
        bytes=len(gold.encode("utf-8")),
        heads=heads,
    )


def weights_digest(model: Loaded) -> str:
    """Of all parameters as they were loaded, in their dtype."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(model.params):
        digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}\n".encode())
        digest.update(np.ascontiguousarray(np.asarray(x)).view(np.uint8).data)
    return digest.hexdigest()
