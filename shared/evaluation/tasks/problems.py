"""Problems of benchmarks as one form, and how a program for one is judged.

from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import judge, reference

problem = load_problems("mbpp", "minis")[0]
judge(problem, reference(problem)).passed  # True
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from shared.evaluation.sandbox import run_cases, run_tests
from shared.evaluation.verdicts import Limits, Verdict
from shared.evaluation.walls.levels import Level
from shared.evaluation.walls.scripts import Case

Task = Literal["mbpp", "mbpp_plus", "humaneval", "humaneval_plus", "contest"]
TASKS: tuple[Task, ...] = get_args(Task)
NUMPY = re.compile(r"^\s*(?:import|from)\s+numpy\b", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem of a benchmark.

    Attributes:
      task: which benchmark it is from.
      id: unique in it, as the data has it.
      statement: what is asked for, byte for byte as the data has it: MBPP's sentence,
        the beginning of HumanEval's function, the text of a contest.
      solution: the reference, with `\\n` as its ends of line; of HumanEval what follows
        the statement. Empty if there is none, as of some contests.
      tests: texts that judge a program, as `sandbox.run_tests` takes them.
      cases: inputs and outputs that judge it, where there are no tests.
      shown: tests of MBPP that a prompt may show; of MBPP+ they are not all.
      setup, definitions: as `sandbox.run_tests` takes them.
      entry_point: the function that HumanEval asks for.
    """

    task: Task
    id: str
    statement: str
    solution: str
    tests: tuple[str, ...] = ()
    cases: tuple[Case, ...] = ()
    shown: tuple[str, ...] = ()
    setup: str = ""
    definitions: str = ""
    entry_point: str = ""


def reference(problem: Problem) -> str:
    """The program that is known to be right.

    Raises:
      ValueError: if the problem has none.
    """
    if not problem.solution:
        raise ValueError(
            f"{problem.task} {problem.id} must have a reference solution, got none"
        )
    begun = problem.statement if problem.entry_point else ""
    return begun.replace("\r\n", "\n") + problem.solution


def judge(
    problem: Problem,
    program: str,
    limits: Limits = Limits(),  # noqa: B008
    *,
    unsafe: bool = False,
    level: Level | None = None,
) -> Verdict:
    """Runs a program on a problem's tests or cases.

    Differences from lm-evaluation-harness and the BigCode harness: MBPP's
    `test_setup_code` runs, which two problems need and both leave out; what MBPP+ and
    HumanEval+ test with numpy may import it, and so may the program.

    With enough time every reference of MBPP (task_id 11 to 974) and HumanEval passes;
    MBPP's 123 needs more than the usual 3 seconds of the processor.

    Args:
      program: what `PromptForm.program` makes of a completion.
      limits, unsafe, level: as `sandbox.run_tests` takes them.

    Raises:
      SandboxError: as `sandbox.run_tests`.
    """
    if problem.cases:
        return run_cases(program, problem.cases, limits, unsafe=unsafe, level=level)
    if any(NUMPY.search(test) for test in problem.tests):
        packages = str(Path(np.__file__).resolve().parents[1])
        limits = replace(limits, import_paths=(*limits.import_paths, packages))
    return run_tests(
        program,
        problem.tests,
        limits,
        setup=problem.setup,
        definitions=problem.definitions,
        unsafe=unsafe,
        level=level,
    )
