"""Checkpoints of either trainer: what goes with the arrays, and which one is read."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from shared.config.fields import TrainConfig
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
      best_nll, best_step: the newest validation nll that was smaller than those before
        by more than train.min_delta, and where it was.
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


def best_kept(best_nll: float | None, best_step: int, cfg: TrainConfig) -> int | None:
    """The step whose checkpoint stays whatever comes; None without early stopping."""
    return best_step if cfg.patience > 0 and best_nll is not None else None


def superseded(steps: Iterable[int], keep: int, best: int | None) -> list[int]:
    """Steps whose checkpoints may go: all but the newest `keep`, and the best."""
    return [step for step in sorted(steps)[:-keep] if step != best]


def step_to_export(
    done: Progressed, cfg: TrainConfig, last: int, there: Iterable[int]
) -> int:
    """The last step, or with early stopping the best.

    Args:
      there: steps of the checkpoints; the best may be missing where early stopping was
        asked for after it.
    """
    best = best_kept(done.best_nll, done.best_step, cfg)
    if best is None or best in (last, *there):
        return last if best is None else best
    log.warning(
        "the best model, of step %d, was not kept: the last, of step %d, is exported",
        best,
        last,
    )
    return last


def require_finite(step: int, tensors: Iterable[tuple[str, Any]]) -> None:
    """Holds what is to be saved after a step against infinity, before it is written.

    Args:
      tensors: names and arrays.

    Raises:
      FloatingPointError: naming the first tensor with a number that is not finite.
    """
    for name, tensor in tensors:
        # A sum in float64 needs no array of flags, and float32 cannot overflow in it.
        if not np.isfinite(np.sum(np.asarray(tensor), dtype=np.float64)):
            raise FloatingPointError(
                f"{name} is not finite after step {step}, which is not saved"
            )


def named_arrays(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays of nested dicts under their dotted names."""
    if not isinstance(tree, dict):
        yield name, tree
        return
    for key, inner in tree.items():
        yield from named_arrays(inner, f"{name}.{key}".lstrip("."))


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
