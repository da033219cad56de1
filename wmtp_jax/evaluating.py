"""One task: the model writes programs, the sandbox judges them, solutions are measured.

A problem is measured before its programs are written, which then find its prompt read.
The engine writes on while programs of earlier problems run; what is known of a problem
is kept at once, in the order of the problems.
"""

import hashlib
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
from shared.evaluation.results.kept import KeptResults
from shared.evaluation.results.of_problems import ProblemResult, judged
from shared.evaluation.tasks.problems import Problem, judge
from shared.evaluation.tasks.prompts import PromptForm
from shared.evaluation.tasks.solutions import Measure, bits_of
from shared.evaluation.verdicts import Limits, Verdict
from shared.evaluation.walls.levels import Level
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.generate import answers

AHEAD = 64  # problems whose programs may still run while the engine writes on


@dataclass(frozen=True, kw_only=True)
class How:
    """How problems of one task are asked and judged.

    Attributes:
      samples: programs of a problem; 0 writes none.
      sampling: its seed is that of the first problem, which the number of each is
        added to; `max_tokens` and `stop` are the form's.
      level: of the sandbox; None where nothing is written.
    """

    form: PromptForm
    samples: int
    sampling: Sampling
    level: Level | None
    limits: Limits


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
    results = each_result(
        problems,
        prompts,
        how,
        tokenizer=tokenizer,
        engine=engine,
        measure=measure,
        done=len(kept.results),
    )
    for result in results:
        kept.add(result)
        progress(len(kept.results))


def each_result(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    how: How,
    *,
    tokenizer: Tokenizer,
    engine: Engine | None,
    measure: Measure | None,
    done: int = 0,
) -> Iterator[ProblemResult]:
    """The results of all problems but the first `done`, in order, as they come."""
    left = list(zip(problems, prompts, strict=True))[done:]
    measured: deque[ProblemResult] = deque()

    def requests() -> Iterator[Request]:
        for number, (problem, ids) in enumerate(left, done):
            found = ProblemResult(id=problem.id)
            if measure is not None:
                found = bits_of(problem, ids, how.form, tokenizer, measure)
            measured.append(found)
            yield request_of(how, ids, number)

    if engine is None or how.samples == 0:
        for _ in requests():
            yield measured.popleft()
        return
    written = answers(engine, requests(), False)
    for result in _judged([problem for problem, _ in left], written, how):
        found = measured.popleft()
        yield replace(result, bits=found.bits, bytes=found.bytes, heads=found.heads)


def _judged(
    problems: Sequence[Problem], written: Iterator[list[dict[str, Any]]], how: How
) -> Iterator[ProblemResult]:
    """The results of the samples of each problem, in order."""
    waiting: deque[tuple[Problem, list[dict[str, Any]], list[Future[Verdict]]]]
    waiting = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for problem, completions in zip(problems, written, strict=True):
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


def weights_digest(model: Loaded) -> str:
    """Of all parameters as they were loaded, in their dtype."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(model.params):
        digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}\n".encode())
        digest.update(np.ascontiguousarray(np.asarray(x)).view(np.uint8).data)
    return digest.hexdigest()
