"""Trains a model: `python -m wmtp_torch_mps.train --algo critic`.

The command alone: `train` in `wmtp_torch_mps/training.py` is the run. What is slow to
import comes once the arguments are read, so that `--help`, or a mistake, is answered at
once. `docs/reading.md` walks through all that follows.
"""

import sys
from typing import Any

from shared.config.fields import Config
from shared.run.freed_memory import use_one_heap
from shared.run.main import asked_of, exit_code
from wmtp_torch_mps import NAME


def train(
    cfg: Config, resume: str = "", overrides: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One training run, as `training.train`: what `summary.json` holds."""
    from wmtp_torch_mps import training

    return training.train(cfg, resume, overrides or {})


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code (docs/configuration.md lists them)."""
    if argv is None:  # a program of its own, not a call from another
        use_one_heap()
    arguments = sys.argv[1:] if argv is None else argv
    with exit_code(arguments) as outcome:
        asked = asked_of(arguments, NAME)
        if asked.distributed[0] not in ("auto", "off"):
            raise ValueError(
                f"--distributed must be off in {NAME}, which trains in one process, "
                f"got {asked.distributed[0]!r} (wmtp_jax trains in several)"
            )
        if asked.dry_run:
            from wmtp_torch_mps.dry_run import dry_run

            dry_run(asked.config, asked.resume, asked.overrides)
        else:
            train(asked.config, asked.resume, asked.overrides)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
