"""Checkpoints of either trainer: what goes with the arrays, and which one is read."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shared.messages import first_line

log = logging.getLogger("wmtp")
State = TypeVar("State")
# What knows the checksums of a checkpoint: Orbax's record, and the torch trainer's.
RECORDS = ("position/metadata", "training_state.json")


@dataclass
class Progressed:
    """What the loop knows beside the arrays; saved with every checkpoint as JSON.

    Attributes:
      data: position in the training data.
      first_eval, last_eval: metrics of the first and the newest evaluation.
      best_nll, best_step: smallest validation nll so far and where it was.
      worse: evaluations in a row that were no better.
      stage1: how the value head's first stage ended.
    """

    data: dict[str, int]
    first_eval: dict[str, float] | None = None
    last_eval: dict[str, float] | None = None
    best_nll: float | None = None
    best_step: int = 0
    worse: int = 0
    stage1: dict[str, float] | None = None


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, oldest first."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit())


def identify(folder: Path, step: int | None = None) -> str:
    """Step and digest of a run's checkpoint (its newest): what is in it, unread.

    Raises:
      ValueError: if there is no such checkpoint, or its record is damaged.
    """
    wanted = require_step(folder, steps_in(folder), step)
    files = [folder / str(wanted) / name for name in RECORDS]
    try:
        record = next((file for file in files if file.is_file()), files[-1])
        content = record.read_bytes()
        json.loads(content)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ValueError(
            f"the checkpoint of step {wanted} in {folder} must be whole, got: "
            f"{reason[:200]}"
        ) from None
    return f"{wanted}-{hashlib.sha256(content).hexdigest()[:16]}"


def require_step(folder: Path, steps: Iterable[int], step: int | None) -> int:
    """`step`, or the newest there is.

    Raises:
      ValueError: if it is not there; says which are.
    """
    found = sorted(steps)
    wanted = step if step is not None else max(found, default=None)
    if wanted is None or wanted not in found:
        have = ", ".join(map(str, found)) or "none"
        name = "a checkpoint" if wanted is None else f"a checkpoint of step {wanted}"
        raise ValueError(f"there must be {name} in {folder}, got: {have}")
    return wanted


def newest_whole(
    folder: Path,
    steps: Iterable[int],
    step: int | None,
    read: Callable[[int], tuple[State, dict[str, Any]]],
) -> tuple[int, State, dict[str, Any]] | None:
    """`(step, state, position)` of `step`, else of the newest that can be read.

    A damaged newest checkpoint is passed over with a warning. None if there is none.

    Args:
      read: raises a ValueError for a damaged one.

    Raises:
      ValueError: if `step` was asked for and is missing or damaged, or all are damaged.
    """
    found = sorted(steps, reverse=True)
    tried = [require_step(folder, found, step)] if step is not None else found
    for candidate in tried:
        try:
            return candidate, *read(candidate)
        except ValueError as error:
            reason = first_line(error)
            log.warning("checkpoint %d cannot be read: %s", candidate, reason[:200])
    if tried:
        raise ValueError(
            f"no checkpoint in {folder} can be read; got damaged ones: "
            f"{', '.join(map(str, tried))}"
        )
    return None
