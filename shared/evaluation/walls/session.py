"""One run of a program's tests: the worker answers, and answers are judged here."""

import json
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from shared.evaluation.verdicts import Limits, Outcome, Result
from shared.evaluation.walls.assertions import Check
from shared.evaluation.walls.child import Child, Mode, Stopped
from shared.evaluation.walls.inside.plain_data import parse, read
from shared.evaluation.walls.levels import Level

ERROR = 200  # characters of an error that are kept
NOT_RUN = Result(outcome="not run")


@dataclass(frozen=True)
class Run:
    """What one run has found.

    Attributes:
      cpu_seconds: of the process that used most.
      stopped: what it was ended for, if it was.
    """

    results: tuple[Result, ...]
    cpu_seconds: float
    seconds: float
    stopped: Outcome | None = None


@dataclass(frozen=True)
class Test:
    """Attributes: `checks` is None where the examiner runs the text."""

    text: str
    checks: list[Check] | None


@dataclass(frozen=True)
class Task:
    """A program and its tests, as `sandbox.run_tests` takes them."""

    program: str
    setup: str
    definitions: str
    tests: Sequence[Test]


class Failed(Exception):
    """A test that is decided: it has not passed."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.outcome)
        self.result = result


class Session:
    """The children of one run."""

    def __init__(
        self, task: Task, level: Level, limits: Limits, cpu_seconds: int, wall: float
    ) -> None:
        self.task, self.level, self.limits = task, level, limits
        self.cpu_seconds, self.wall = cpu_seconds, wall
        self.children = ExitStack()
        self.examiner: Child | None = None

    def run(self) -> Run:
        """All tests, up to the end of the process that answers."""
        start = time.monotonic()
        results: list[Result] = []
        stopped: Outcome | None = None
        worker = self._child("worker")
        with self.children:
            try:
                self._prepare(worker)
                for test in self.task.tests:
                    results.append(self._result(worker, test))
            except Stopped as stop:
                stopped = stop.outcome
            except Failed as failed:  # the program itself: no test can be run
                results = [failed.result] * len(self.task.tests)
        if stopped == "crashed":
            stopped = self._fate(worker)
        if stopped:
            error = ended_by(worker) if stopped == "crashed" else ""
            results.append(Result(outcome=stopped, error=error))
        results += [NOT_RUN] * (len(self.task.tests) - len(results))
        seconds = time.monotonic() - start
        return Run(tuple(results), self._used(worker), seconds, stopped)

    def _child(self, mode: Mode) -> Child:
        child = Child(
            mode, self.level, self.limits, cpu_seconds=self.cpu_seconds, wall=self.wall
        )
        return self.children.enter_context(child)

    def _prepare(self, worker: Child) -> None:
        for text in (self.task.program, self.task.setup):
            if text:
                said = _said(worker.ask("x" + text))
                if said[0] != "is":
                    raise Failed(_error(said))

    def _result(self, worker: Child, test: Test) -> Result:
        if test.checks is None:
            return self._examined(worker, test.text)
        try:
            for check in test.checks:
                _judge(worker, check)
        except Failed as failed:
            return failed.result
        return Result(outcome="passed")

    def _examined(self, worker: Child, text: str) -> Result:
        """The examiner runs the test; its questions go to the worker and back."""
        if self.examiner is None:
            self.examiner = self._child("examiner")
            self.examiner.deadline = worker.deadline
            if self.task.definitions:
                outcome, error = self._finish(worker, "x" + self.task.definitions)
                if outcome != "passed":
                    raise ValueError(f"definitions must run, got {error}")
        outcome, error = self._finish(worker, "p" + text)
        return Result(outcome=outcome, error=shown(error))

    def _finish(self, worker: Child, request: str) -> tuple[Outcome, str]:
        assert self.examiner
        said = self.examiner.ask(request)
        while said[0] != "d":
            self.examiner.send(worker.ask(said))
            said = self.examiner.receive()
        outcome, error = json.loads(said[1:])
        return outcome, error

    def _fate(self, worker: Child) -> Outcome:
        """What a process ended by that nobody has ended."""
        late = exhausted(self._used(worker), self.cpu_seconds)
        return "timed out" if late else "crashed"

    def _used(self, worker: Child) -> float:
        """Seconds of the processor; each process has its own limit."""
        return max(x.cpu_seconds for x in (worker, self.examiner) if x)


def exhausted(used: float, seconds: int) -> bool:
    """Whether a limit of the processor's time was reached, as clocks tell roughly."""
    return used > 0.9 * seconds


def _judge(worker: Child, check: Check) -> None:
    """Raises: Failed, if the check does not hold."""
    said = _said(worker.ask(check.request)) if check.request else ["is", None]
    if said[0] == "odd":
        text = shown(f"not plain data: {said[1]}")
        raise Failed(Result(outcome="wrong", error=text))
    if said[0] == "raised":
        raise Failed(_error(said))
    try:
        holds = check.holds(read(said[1]))
    except Exception as error:  # whatever Python raises for such a comparison
        text = shown(f"{type(error).__name__}: {error}")
        raise Failed(Result(outcome="error", error=text)) from None
    if not holds:
        raise Failed(Result(outcome="wrong"))


def _said(answer: str) -> list[Any]:
    """An answer's parts; whatever a program has written, it is one of three kinds."""
    try:
        match parse(answer):
            case ["is", _] | ["odd", str(), int()] as said:
                return said
            case ["raised", [str(), *types], str()] as said if all(
                isinstance(kind, str) for kind in types
            ):
                return said
    except ValueError:
        pass
    return ["raised", ["ValueError"], "an answer of no known form"]


def _error(said: list[Any]) -> Result:
    outcome: Outcome = "out of memory" if "MemoryError" in said[1] else "error"
    return Result(outcome=outcome, error=shown(f"{said[1][0]}: {said[2]}"))


def shown(text: str) -> str:
    """What a program says of an error, fit to be printed."""
    return "".join(x if x.isprintable() else "?" for x in text[:ERROR])


def ended_by(child: Child) -> str:
    """The signal or the status that a process has ended with."""
    if child.killed:
        return "it closed its answers"
    if child.status < 0:
        return signal.Signals(-child.status).name
    return f"exit status {child.status}"
