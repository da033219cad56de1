"""Trains a model: `python -m wmtp_jax.train --algo critic`.

The command alone: `train` in `wmtp_jax/training.py` is the run. What is slow to
import comes once the arguments are read, so that `--help`, or a mistake, is answered at
once. `docs/reading.md` walks through all that follows.
"""

import os
import sys
from typing import Any

from shared.config.fields import Config
from shared.run.freed_memory import use_one_heap
from shared.run.launch import Launch, choose_launch
from shared.run.main import asked_of, exit_code
from wmtp_jax import NAME


def train(
    cfg: Config,
    resume: str = "",
    overrides: dict[str, Any] | None = None,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """One training run, as `training.train`: what `summary.json` holds.

    Args:
      launch: this process among those that train together.
    """
    from wmtp_jax import training
    from wmtp_jax.processes import joined

    with joined(launch) as peers:
        return training.train(cfg, resume, overrides or {}, peers)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code (docs/configuration.md lists them)."""
    if argv is None:  # a program of its own, not a call from another
        use_one_heap()
    arguments = sys.argv[1:] if argv is None else argv
    launch = None
    with exit_code(arguments) as outcome:
        asked = asked_of(arguments, NAME)
        launch = choose_launch(*asked.distributed, os.environ)
        if asked.dry_run:
            from wmtp_jax.dry_run import dry_run

            dry_run(asked.config, asked.resume, asked.overrides)
        else:
            train(asked.config, asked.resume, asked.overrides, launch)
    if launch is not None and outcome.code:
        from wmtp_jax.processes import leave_peers

        leave_peers(outcome.code, outcome.line)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
