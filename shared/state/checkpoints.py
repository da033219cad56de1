"""Checkpoints of either trainer: what goes with the arrays, and which one is read."""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from shared.config.fields import TrainConfig
from shared.files import OWNER, clear_leftovers, remove_folder
from shared.messages import first_line
from shared.state.manifest import MANIFEST

log = logging.getLogger("wmtp")
State = TypeVar("State")
# What knows the digests of a checkpoint: the JAX trainer's manifest, the torch
# trainer's header, and what the JAX trainer wrote before it had a manifest.
RECORDS = (MANIFEST, "training_state.json", "position/metadata")
STEP = re.compile("0|[1-9][0-9]{0,17}")
# What the JAX trainer wrote a checkpoint under before it had a manifest.
OLDER = re.compile(r"([0-9]+)\.orbax-checkpoint-tmp")


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
      skipped_updates: updates not made, as loss or gradient was not finite.
      skipped_in_a_row: the newest of them, up to the last update that was made.
      roll_backs: how often the run went back to a checkpoint because of them.
      passed_over: what each of those left out, see `shared/run/setbacks.py`.
      grad_norms: the newest norms of the gradient, of which spikes are told.
      grad_spikes: how many there were.
      micro_batch_splits: into how many parts micro-batches are cut since memory ran
        out; 1 is whole.
    """

    data: dict[str, int]
    first_eval: dict[str, float] | None = None
    last_eval: dict[str, float] | None = None
    best_nll: float | None = None
    best_step: int = 0
    worse: int = 0
    stage1: dict[str, float] | None = None
    skipped_updates: int = 0
    skipped_in_a_row: int = 0
    roll_backs: int = 0
    passed_over: list[dict[str, int]] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    grad_spikes: int = 0
    micro_batch_splits: int = 1


def best_kept(best_nll: float | None, best_step: int, cfg: TrainConfig) -> int | None:
    """The step whose checkpoint stays whatever comes, where the best one is wanted."""
    wanted = cfg.keep_best or cfg.patience > 0
    return best_step if wanted and best_nll is not None else None


def superseded(steps: Iterable[int], keep: int, best: int | None) -> list[int]:
    """Steps whose checkpoints may go: all but the newest `keep`, and the best."""
    return [step for step in sorted(steps)[:-keep] if step != best]


def step_to_export(
    done: Progressed, cfg: TrainConfig, last: int, there: Iterable[int]
) -> int:
    """The last step, or the best where that is kept.

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
    return sorted(int(path.name) for path in found if STEP.fullmatch(path.name))


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


def make_room(folder: Path, step: int) -> None:
    """Clears the way: what is there of the step, and what killed saves have left."""
    if (folder / str(step)).exists():
        remove_folder(folder / str(step))
    clear_leftovers(folder)


def drop_after(folder: Path, step: int) -> None:
    """Deletes the checkpoints after `step`, which a run that goes on makes anew."""
    for later in steps_in(folder):
        if later > step:
            remove_folder(folder / str(later))


def drop_superseded(folder: Path, position: dict[str, Any], cfg: TrainConfig) -> None:
    """Deletes the checkpoints that a new one, with its `position`, supersedes."""
    best = best_kept(position["best_nll"], position["best_step"], cfg)
    for old in superseded(steps_in(folder), cfg.keep_checkpoints, best):
        remove_folder(folder / str(old))


@contextmanager
def written(folder: Path, step: int) -> Iterator[None]:
    """Says which checkpoint could not be written, and that this is no bad input.

    Raises:
      OSError: the disk is full, the folder read-only, what was read back differs.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        of_system = [x for x in (error, error.__context__) if isinstance(x, OSError)]
        said = next((x.strerror for x in of_system if x.strerror), None)
        raise OSError(
            f"the checkpoint of step {step} must be written to {folder}, got: "
            f"{said or first_line(of_system[-1] if of_system else error)[:300]}"
        ) from error


def clear_unfinished(folder: Path) -> None:
    """Removes what stopped writers have left, and says which checkpoints those were."""
    found = folder.iterdir() if folder.is_dir() else ()
    for name in sorted(path.name for path in found):
        ours, older = OWNER.fullmatch(name), OLDER.match(name)
        if older:
            shutil.rmtree(folder / name, ignore_errors=True)
        if step := older or (ours and re.fullmatch("([0-9]+)", ours["name"])):
            log.warning("checkpoint %s was not finished: it is passed over", step[1])
    clear_leftovers(folder)


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
    reasons = []
    for candidate in tried:
        try:
            return candidate, *read(candidate)
        except ValueError as error:
            reasons.append(first_line(error)[:400])
            log.warning("checkpoint %d cannot be read: %s", candidate, reasons[-1])
    if tried:
        raise ValueError(
            f"no checkpoint in {folder} can be read; got damaged ones: "
            f"{', '.join(map(str, tried))} ({reasons[0]})"
        )
    return None
