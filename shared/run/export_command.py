"""The command line of `export`, the same for both backends."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def export_main(
    prog: str,
    doc: str,
    export_run: Callable[..., int],
    argv: list[str] | None,
) -> int:
    """Exports what the arguments name; returns the exit code: 0, or 2 for bad input.

    Args:
      prog: module of the command; `doc` is what it says of itself.
      export_run: `(run, folder, model_only=...)` -> step of the checkpoint.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {prog}", description=doc.splitlines()[0]
    )
    parser.add_argument("run", help="run folder, or RUN/checkpoints/STEP")
    parser.add_argument("--to", required=True, help="folder to write; must be new")
    parser.add_argument(
        "--model-only",
        action="store_true",
        help="leave out what a trainer needs to go on (two thirds of the size)",
    )
    asked = parser.parse_args(argv)
    try:
        step = export_run(asked.run, Path(asked.to), model_only=asked.model_only)
    except ValueError as error:
        message = str(error).replace("--resume", "RUN")
        print(f"error: {message}", file=sys.stderr)
        return 2
    print(f"step {step} of {asked.run} written to {asked.to}")
    return 0
