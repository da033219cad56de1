"""A module run as `python -m` does, that ends where the process that asked for it does.

    python -m shared.comparison.grid.child PARENT MODULE ARGUMENTS

A grid that is killed leaves no trainer behind on Linux, whose kernel tells this process
to stop; it saves, as it does after Ctrl-C. Elsewhere the trainer goes on to its end.
"""

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Runs `MODULE` with its arguments.

    Args:
      argv: number of the process that asks, the module, its arguments.
    """
    parent, module, *arguments = argv
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it has ended before
            sys.exit(128 + signal.SIGTERM)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
