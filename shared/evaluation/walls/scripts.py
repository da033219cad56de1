"""One run of a program as a script, from an input to an output."""

import time
from dataclasses import dataclass

from shared.evaluation.verdicts import Limits, Outcome, Result
from shared.evaluation.walls.child import Child, Stopped
from shared.evaluation.walls.inside import frames
from shared.evaluation.walls.levels import Level
from shared.evaluation.walls.outputs import same_output
from shared.evaluation.walls.session import Run, ended_by, exhausted, shown


@dataclass(frozen=True)
class Case:
    """What a script reads, and what it should write."""

    given: str
    expected: str


def run_case(
    program: str,
    case: Case,
    level: Level,
    limits: Limits,
    cpu_seconds: int,
    wall: float,
) -> Run:
    """The program's run on one input, with one result.

    Raises:
      SandboxError: if the walls could not be raised.
    """
    start = time.monotonic()
    stopped: Outcome | None = None
    written = b""
    with Child("script", level, limits, cpu_seconds=cpu_seconds, wall=wall) as child:
        try:
            child.await_ready()
            given = case.given.encode("utf-8", "surrogatepass")
            written = child.converse(frames.pack(program) + given)
        except Stopped as stop:
            stopped = stop.outcome
        said = child.complaint()
    if stopped in (None, "crashed") and exhausted(child.cpu_seconds, cpu_seconds):
        stopped = "timed out"
    if stopped:
        result = Result(outcome=stopped)
    elif child.status == 0:
        same = same_output(written.decode("utf-8", "replace"), case.expected)
        result = Result(outcome="passed" if same else "wrong")
    elif child.status > 0:
        memory = said == "MemoryError"
        result = Result(
            outcome="out of memory" if memory else "error", error=shown(said)
        )
    else:
        result = Result(outcome="crashed", error=ended_by(child))
    return Run((result,), child.cpu_seconds, time.monotonic() - start, stopped)
