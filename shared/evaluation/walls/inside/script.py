"""Runs a program as a script: its input follows it on descriptor 0, 1 is its output.

The interpreter ends as it always does: threads are waited for, exit handlers run, what
is in buffers is written, the status says whether the program failed.
"""

import os
import sys

from shared.evaluation.walls.inside import frames

NAME = "__main__"


def serve() -> None:
    """Runs the one program that is sent."""
    program = frames.read(0)
    told = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    module = type(sys)(NAME)
    sys.modules[NAME] = module
    names = vars(module)
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), names)
    except SystemExit:
        raise
    except BaseException as error:
        os.write(told, type(error).__name__.encode("ascii", "replace")[:200])
        sys.exit(1)
