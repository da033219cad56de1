"""What a program is given, and what is found about it."""

import math
from dataclasses import dataclass, fields
from typing import Literal

Outcome = Literal[
    "passed",
    "wrong",
    "error",
    "timed out",
    "out of memory",
    "crashed",
    "too much output",
    "not run",
]
"""Of one test. `error`: the program or the test raised; `crashed`: the process ended by
itself, by a signal or an exit; `not run`: it had ended before."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run of a program may use; a run is all tests of it, or one case.

    Attributes:
      cpu_seconds: of the processor, the start of Python included.
      wall_seconds: from start to end. A run that is stopped by it runs once more, while
        no other runs, and for twice as long.
      memory_bytes: of addresses; macOS has no such limit, there the memory in use is
        looked at ten times a second.
      answer_bytes: of one value, or of all that a script writes.
      file_bytes: of one file.
      scratch_bytes: of all files, which are in memory where namespaces are.
      open_files, threads: at once.
      import_paths: folders beside the standard library to import from, such as
        site-packages; they can be read then.
    """

    cpu_seconds: float = 3.0
    wall_seconds: float = 10.0
    memory_bytes: int = 2**30
    answer_bytes: int = 2**20
    file_bytes: int = 2**24
    scratch_bytes: int = 2**26
    open_files: int = 64
    threads: int = 64
    import_paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "import_paths" and not 0 < value < math.inf:
                raise ValueError(f"{field.name} must be > 0 and finite, got {value}")


@dataclass(frozen=True, kw_only=True)
class Result:
    """Of one test.

    Attributes:
      error: the error's type and what it says, written by the program: any text, of at
        most 200 characters; or what it ended by. Empty if there is none.
    """

    outcome: Outcome
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one program.

    Attributes:
      passed: whether every test has passed.
      results: one of each test, in their order.
      level: name of the sandbox's level (`levels.LADDER`).
      seconds: from start to end, of the run that counts.
      cpu_seconds: of the processor in that run, start of Python included, by the
        program's process or that of its tests, whichever used more.
      retried: whether it ran a second time, alone, which then counts.
    """

    passed: bool
    results: tuple[Result, ...]
    level: str
    seconds: float
    cpu_seconds: float
    retried: bool = False

    @property
    def timed_out(self) -> bool:
        """Whether a test took too long."""
        return any(result.outcome == "timed out" for result in self.results)
