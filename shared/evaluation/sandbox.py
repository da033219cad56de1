"""Runs model-written Python behind walls and judges it from outside.

The process that runs a program holds no expected value and no verdict: it is asked
for `f(2)`, and what it answers, as plain data, is compared here. Checks that are more
than a comparison with a literal run in a second sandboxed process that has the test,
calls the first by messages and never holds a line of the program.

    from shared.evaluation.sandbox import run_tests

    verdict = run_tests("def f(x): return x + 1", ["assert f(2) == 3"])
    verdict.passed, verdict.level  # True, "namespaces"

Safe in threads: a pool of as many as there are processors is the way to run many.

What a verdict cannot tell: that a program has learnt the tests by heart; and where a
test compares two objects of the program's own classes, the program's `==` decides.
What a test calls and neither it, `definitions` nor `setup` define is the program's, as
in one interpreter; names of Python's own are not, where a second process runs the test.
numpy and other packages can be imported only if `Limits.import_paths` says where from.

Where it falls short: on macOS the walls have not been tried on a Mac. At the level
`landlock` a program sees which files there are, though not what is in them, and root's
programs have no limit of threads but memory. Runs of other processes are not waited for
when a time-out is tried again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shared.evaluation.verdicts import Limits, Result, Verdict
from shared.evaluation.walls import definitions as defined
from shared.evaluation.walls.alone import TURNS
from shared.evaluation.walls.assertions import taken_apart
from shared.evaluation.walls.levels import Level
from shared.evaluation.walls.probe import level_for
from shared.evaluation.walls.scripts import Case, run_case
from shared.evaluation.walls.session import Run, Session, Task, Test, exhausted

SLACK = 2  # a run beside others may use so many times its seconds of the processor


def run_tests(
    program: str,
    tests: Sequence[str],
    limits: Limits = Limits(),  # noqa: B008
    *,
    setup: str = "",
    definitions: str = "",
    unsafe: bool = False,
    level: Level | None = None,
) -> Verdict:
    """Runs a program and judges it by tests, in their order, in one process.

    Args:
      program: Python; its `__name__` is not `__main__`.
      tests: texts of Python, each with one result: asserts, or more. HumanEval's are
        one text, `f"{test}\\ncheck({entry_point})"`.
      limits: of the whole run.
      setup: runs after the program, in its process, like MBPP's `test_setup_code`;
        functions, classes and imports in it count as `definitions`, too.
      definitions: trusted text, such as HumanEval's prompt: functions of it that a test
        calls are not the program's, whatever that makes of their names.
      unsafe: run without walls; the verdict says so.
      level: of the sandbox; the strongest that holds here if none is named.

    Raises:
      SandboxError: if no wall is available and `unsafe` is not set, or one falls away.
      ValueError: without tests, or if a trusted text is no Python.
    """
    if not tests:
        raise ValueError("a program must be judged by at least one test, got none")
    level = level or level_for(unsafe=unsafe)
    trusted = "\n".join(defined.of_tests(text) for text in (definitions, setup))
    names = defined.names(trusted)
    each = [Test(text, taken_apart(text, names)) for text in tests]
    task = Task(program, setup, trusted, each)

    def run(cpu_seconds: int, wall: float) -> Run:
        return Session(task, level, limits, cpu_seconds, wall).run()

    return _verdict([_settled(run, limits)], level)


def run_cases(
    program: str,
    cases: Sequence[Case],
    limits: Limits = Limits(),  # noqa: B008
    *,
    unsafe: bool = False,
    level: Level | None = None,
) -> Verdict:
    """Runs a program as a script on one input after the other, to the first it fails.

    Args:
      program: Python; its `__name__` is `__main__`.
      cases: inputs, and outputs as `outputs.same_output` compares them.
      limits: of each run.
      unsafe, level: as in `run_tests`.

    Raises:
      SandboxError: as `run_tests`.
      ValueError: without cases.
    """
    if not cases:
        raise ValueError("a script must be judged by at least one case, got none")
    level = level or level_for(unsafe=unsafe)
    runs: list[_Settled] = []
    for case in cases:

        def run(cpu_seconds: int, wall: float, case: Case = case) -> Run:
            return run_case(program, case, level, limits, cpu_seconds, wall)

        runs.append(_settled(run, limits))
        if runs[-1].run.results[0].outcome != "passed":
            break
    verdict = _verdict(runs, level)
    left = (Result(outcome="not run"),) * (len(cases) - len(runs))
    return replace(verdict, results=verdict.results + left)


@dataclass(frozen=True)
class _Settled:
    """A run that counts."""

    run: Run
    retried: bool


def _settled(run: Callable[[int, float], Run], limits: Limits) -> _Settled:
    """Runs beside others first; what was near a limit of time runs once more, alone.

    Beside others a program may use twice its budget of the processor: it counts what
    caches and shared cores cost. Only what needs even more is given up at once.
    """
    budget = limits.cpu_seconds
    most = math.ceil(SLACK * budget)
    with TURNS.together():
        first = run(most, limits.wall_seconds)
    if first.stopped == "timed out":
        final = exhausted(first.cpu_seconds, most)
    else:
        final = first.cpu_seconds <= budget
    if final:
        return _Settled(first, retried=False)
    with TURNS.alone():
        second = run(math.ceil(budget), SLACK * limits.wall_seconds)
    if second.cpu_seconds > budget and second.stopped is None:
        late = Result(outcome="timed out")
        second = replace(second, results=(*second.results[:-1], late))
    return _Settled(second, retried=True)


def _verdict(settled: Sequence[_Settled], level: Level) -> Verdict:
    results = tuple(x for each in settled for x in each.run.results)
    return Verdict(
        passed=all(result.outcome == "passed" for result in results),
        results=results,
        level=level.name,
        seconds=sum(each.run.seconds for each in settled),
        cpu_seconds=sum(each.run.cpu_seconds for each in settled),
        retried=any(each.retried for each in settled),
    )
