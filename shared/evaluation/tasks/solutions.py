"""How surprised a model is by solutions that are known to be right."""

import math
from collections.abc import Callable, Sequence

from shared.data.tokenizer import Tokenizer
from shared.decoding.prompt_rows import prompt_ids
from shared.evaluation.results.of_problems import HeadMeasure, ProblemResult
from shared.evaluation.tasks.problems import Problem
from shared.evaluation.tasks.prompts import FORMS, PromptForm, find_form

# `(prompt, text) -> measures`, one of each head. Head k predicts token j of the text
# from the position j - 1 - k: the first tokens from within the prompt, and none from
# before its beginning.
Measure = Callable[[Sequence[int], Sequence[int]], tuple[HeadMeasure, ...]]


def prompt_tokens(
    tokenizer: Tokenizer, problems: Sequence[Problem], form: PromptForm
) -> list[list[int]]:
    """The ids of each problem's prompt."""
    return [
        prompt_ids(tokenizer, {"prompt": form.text(problem)}, form.chat, problem.id)
        for problem in problems
    ]


def form_that_fits(
    tokenizer: Tokenizer, most: int, problems: Sequence[Problem], name: str
) -> tuple[PromptForm, list[list[int]]]:
    """The form that is asked for, or the task's first that leaves room everywhere.

    Args:
      most: tokens that the model reads.
      name: of the form; empty leaves the choice.

    Returns:
      The form, and the ids of each problem's prompt.

    Raises:
      ValueError: if there is no such form, or no room for its prompts.
    """
    task = problems[0].task
    forms = [find_form(task, name)]
    if not name:
        forms = [form for form in FORMS if task in form.tasks and not form.chat]
    longest = []
    for form in forms:
        prompts = prompt_tokens(tokenizer, problems, form)
        longest.append(max(map(len, prompts)))
        if longest[-1] < most:
            return form, prompts
    raise ValueError(
        f"prompts of {task} must have fewer than the model's {most} tokens, got "
        f"{min(longest)} in the form {forms[longest.index(min(longest))].name!r}"
    )


def bits_of(
    problem: Problem,
    ids: Sequence[int],
    form: PromptForm,
    tokenizer: Tokenizer,
    measure: Measure,
) -> ProblemResult:
    """What every head makes of a problem's reference solution; no more is found yet.

    The solution's tokens are those of prompt and solution together behind the prompt's
    own. Where a token would reach over the seam, the solution is spelled by itself.

    Args:
      ids: of the prompt.

    Returns:
      A result without samples; also without bits, if the problem has no solution.
    """
    if not problem.solution:
        return ProblemResult(id=problem.id)
    gold, ids = form.gold(problem), list(ids)
    together = [] if form.chat else tokenizer.encode(form.text(problem) + gold)
    alike = len(together) > len(ids) and together[: len(ids)] == ids
    heads = measure(ids, together[len(ids) :] if alike else tokenizer.spell(gold))
    return ProblemResult(
        id=problem.id,
        bits=heads[0].nll / math.log(2),
        bytes=len(gold.encode("utf-8")),
        heads=heads,
    )
