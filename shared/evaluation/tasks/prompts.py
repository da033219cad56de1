"""What a model is shown of a problem, and the program that its completion becomes.

Numbers can be compared only under the same form. The forms of lm-evaluation-harness
(github.com/EleutherAI/lm-evaluation-harness, `lm_eval/tasks/{mbpp,humaneval}`) and of
the BigCode harness (github.com/bigcode-project/bigcode-evaluation-harness,
`bigcode_eval/tasks/{mbpp,humaneval}.py`) are theirs byte for byte, stop strings and
numbers of tokens too. Those for contests and for chat models are our own.

A form's stop list cuts no reference solution of MBPP or HumanEval, but that BigCode's
for MBPP cuts task 342, which defines a class after its imports.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from shared.evaluation.tasks.problems import Problem, Task, reference

SHOWN_TESTS = 3  # of MBPP's, in the form of its paper; a few problems have more
BLOCK = re.compile(
    r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True, kw_only=True)
class PromptForm:
    """One way to ask for a program.

    Attributes:
      name: that is recorded with every result.
      tasks: whose problems it can be used for.
      text: the prompt; with `chat`, what the user says.
      stop: texts before which a completion ends.
      max_tokens: of a completion; with `counts_prompt`, of prompt and completion.
      gold: the completion that is known to be right; its bits are measured.
      begun: what stands before a completion in the program.
      chat: whether the prompt is a message, to be laid out by the chat template.
      counts_prompt: as `max_length_generation` of the BigCode harness does.
    """

    name: str
    tasks: tuple[Task, ...]
    text: Callable[[Problem], str]
    stop: tuple[str, ...]
    max_tokens: int
    gold: Callable[[Problem], str]
    begun: Callable[[Problem], str]
    chat: bool = False
    counts_prompt: bool = False

    def program(self, problem: Problem, completion: str) -> str:
        """The program of a completion, of which a stop string is the end.

        Of a chat's completion it is the first fenced block; without one, all of it.
        """
        text = fenced(completion) if self.chat else cut(completion, self.stop)
        return self.begun(problem) + text

    def room(self, prompt_tokens: int) -> int:
        """Tokens that a completion may have, at least 0."""
        return max(0, self.max_tokens - prompt_tokens * self.counts_prompt)


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of some stop strings.

    Example:
      >>> cut("a\\nclass B\\nif c", ["\\nif", "\\nclass"])
      'a'
    """
    return text[: min(x for x in (*map(text.find, stop), len(text)) if x >= 0)]


def fenced(text: str) -> str:
    """What the first fenced block holds, also one without an end; else the text.

    Example:
      >>> fenced("So:\\n```python\\nx = 1\\n```\\nor\\n```\\nx = 2\\n```")
      'x = 1\\n'
    """
    found = BLOCK.search(text)
    return found[1] if found else text


@cache
def shots() -> str:
    """MBPP's problems 2, 3 and 4 with their solutions, whose lines end in `\\r\\n`."""
    file = files("shared.evaluation.tasks").joinpath("mbpp_shots.json")
    text = file.read_text("utf-8")
    return "".join(
        _asked(row["text"], row["test_list"]) + f"{row['code']}\n[DONE]\n\n"
        for row in json.loads(text)["shots"]
    )


def _asked(text: str, tests: Sequence[str]) -> str:
    return (
        f"You are an expert Python programmer, and here is your task: {text} "
        "Your code should pass these tests:\n\n"
        + "".join(f"{test}\n" for test in tests[:SHOWN_TESTS])
        + "[BEGIN]\n"
    )


def _few_shot(problem: Problem) -> str:
    return shots() + _asked(problem.statement, problem.shown)


def _docstring(problem: Problem) -> str:
    """A description and the first test; of a contest, the statement alone."""
    test = f"\n{problem.shown[0]}" if problem.shown else ""
    return f'"""\n{problem.statement}{test}\n"""\n'


def _statement(problem: Problem) -> str:
    return problem.statement


def _stripped(problem: Problem) -> str:
    return problem.statement.strip()


def _nothing(problem: Problem) -> str:
    return ""


def _solution(problem: Problem) -> str:
    return problem.solution


def _solution_and_end(problem: Problem) -> str:
    return f"{problem.solution}\n[DONE]"


def _solution_of_stripped(problem: Problem) -> str:
    """What the prompt has lost at its end comes first."""
    end = problem.statement[len(problem.statement.rstrip()) :]
    return end + problem.solution


def _request(problem: Problem) -> str:
    """What a user says to a chat model."""
    if problem.entry_point:
        return (
            "Complete this Python function. Answer with the whole function in one "
            f"fenced block.\n\n```python\n{problem.statement.rstrip()}\n```"
        )
    if problem.cases:
        return (
            "Write a Python program that reads from standard input and writes to "
            f"standard output. Answer with one fenced block.\n\n{problem.statement}"
        )
    tests = "\n".join(problem.shown[:SHOWN_TESTS])
    return (
        f"{problem.statement}\n\nAnswer with Python code in one fenced block. It must "
        f"pass these tests:\n\n```python\n{tests}\n```"
    )


def _before_block(problem: Problem) -> str:
    """HumanEval's prompt: a block has its function again, or the body alone."""
    return f"{problem.statement.rstrip()}\n" if problem.entry_point else ""


def _block(problem: Problem) -> str:
    return f"```python\n{reference(problem).rstrip()}\n```"


MBPP: tuple[Task, ...] = ("mbpp", "mbpp_plus")
HUMANEVAL: tuple[Task, ...] = ("humaneval", "humaneval_plus")

FORMS = (
    PromptForm(
        name="mbpp 3-shot",
        tasks=MBPP,
        text=_few_shot,
        stop=("[DONE]",),
        max_tokens=256,
        gold=_solution_and_end,
        begun=_nothing,
    ),
    PromptForm(
        name="mbpp zero-shot",
        tasks=MBPP,
        text=_docstring,
        stop=("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```"),
        max_tokens=512,
        gold=_solution,
        begun=_docstring,
        counts_prompt=True,
    ),
    PromptForm(
        name="humaneval",
        tasks=HUMANEVAL,
        text=_statement,
        stop=("\nclass", "\ndef", "\n#", "\nif", "\nprint"),
        max_tokens=1024,
        gold=_solution,
        begun=_statement,
    ),
    PromptForm(
        name="humaneval stripped",
        tasks=HUMANEVAL,
        text=_stripped,
        stop=(
            *("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```"),
            "<file_sep>",
        ),
        max_tokens=512,
        gold=_solution_of_stripped,
        begun=_stripped,
        counts_prompt=True,
    ),
    PromptForm(
        name="contest",
        tasks=("contest",),
        text=_docstring,
        stop=('\n"""', "\n```"),
        max_tokens=1024,
        gold=_solution,
        begun=_nothing,
    ),
    PromptForm(
        name="chat",
        tasks=(*MBPP, *HUMANEVAL, "contest"),
        text=_request,
        stop=(),
        max_tokens=1024,
        gold=_block,
        begun=_before_block,
        chat=True,
    ),
)


def find_form(task: Task, name: str = "") -> PromptForm:
    """A form for a task, by its name; the task's first if none is named.

    Raises:
      ValueError: if the task has no such form.
    """
    forms = [form for form in FORMS if task in form.tasks]
    for form in forms:
        if name in ("", form.name):
            return form
    known = ", ".join(form.name for form in forms)
    raise ValueError(f"the prompt form of {task} must be one of {known}, got {name!r}")
