"""A run's folder: made once, never overwritten, found again by `--resume`."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from shared.config.fields import Config
from shared.config.layers import build, dump_config, flatten, load_config
from shared.files import (
    cannot_write,
    clear_leftovers,
    file_digest,
    temporary_name,
    write_json,
    write_text,
)
from shared.json_text import read_object
from shared.state.checkpoints import steps_in
from shared.state.header import HEADER

Filled = TypeVar("Filled")
ORIGIN = "origin.json"
# Fields that a resumed run may change: they decide how long it runs, what it tells and
# what its exports say, not what a step computes (but a linear or cosine schedule ends
# where the run does).
FREE_ON_RESUME = {
    "output_dir",
    "run_name",
    "verbose",
    "decoding.draft_vocab",
    "machine.device",
    "machine.fsdp",
    "machine.tensor",
    "tracking.to",
    "tracking.tensorboard",
    "train.epochs",
    "train.evaluate",
    "train.evaluate_every",
    "train.evaluate_seconds",
    "train.export",
    "train.eval_every",
    "train.inspect",
    "train.keep_best",
    "train.keep_checkpoints",
    "train.max_roll_backs",
    "train.max_skipped",
    "train.max_steps",
    "train.min_delta",
    "train.patience",
    "train.save_every",
    "train.watchdog",
    "train.watchdog_seconds",
}


def create(cfg: Config, fill: Callable[[Path], Filled]) -> tuple[Path, Config, Filled]:
    """Makes the folder of a new run, with its resolved `config.yaml`, whole or not.

    It has its name once all is in it: a run that is killed before leaves nothing that
    would stand in the way of another. A default name that is taken gets a number.

    Args:
      fill: is given the folder under another name, to write more files into it.

    Returns:
      The folder, the config with the name it has now, and what `fill` returned.

    Raises:
      ValueError: if the folder exists and holds something, or cannot be written.
    """
    cfg = replace(cfg, output_dir=os.path.expanduser(cfg.output_dir))
    runs = Path(cfg.output_dir)
    stamp = f"{cfg.algo}-{time.strftime('%Y%m%d-%H%M%S')}"
    names = [cfg.run_name] if cfg.run_name else [stamp]
    names += [] if cfg.run_name else [f"{stamp}-{number}" for number in range(2, 1000)]
    try:
        runs.mkdir(parents=True, exist_ok=True)
        made = temporary_name(runs / "new-run")
        made.mkdir()
    except OSError as error:
        required = "output_dir must be a folder that can be written"
        raise cannot_write(required, cfg.output_dir, error) from None
    try:
        filled = fill(made)
        for name in names:
            named = replace(cfg, run_name=name)
            write_text(made / "config.yaml", dump_config(named))
            if _renamed(made, runs / name):
                return runs / name, named, filled
    finally:
        shutil.rmtree(made, ignore_errors=True)
    taken = runs / names[0]
    raise ValueError(
        f"run_name must be new, got {taken.name!r}, whose folder {taken} exists (go on "
        f"with it by --resume {taken})"
    )


def _renamed(made: Path, path: Path) -> bool:
    """Whether the folder has the name now; not if another one has it and is not empty.

    One process alone gets a name, since renaming is one operation.
    """
    if not (path / "config.yaml").exists():  # older versions were killed before it
        clear_leftovers(path, r"config\.yaml")
    try:
        made.rename(path)
    except OSError:
        if os.path.lexists(path):  # a link to nothing too
            return False
        raise
    return True


def find(
    resume: str, output_dir: str, option: str = "--resume"
) -> tuple[Path, int | None]:
    """The run that `option` names: a run's name, its folder, or one checkpoint in it.

    Returns:
      The run folder, and the step if a checkpoint (`RUN/checkpoints/STEP`) was named.

    Raises:
      ValueError: if there is no such run.
    """
    resume, output_dir = map(os.path.expanduser, (resume, output_dir))
    for path in (Path(resume), Path(output_dir) / resume):
        if (step := named_step(path)) is not None:
            path = path.parent.parent
        if (path / "config.yaml").is_file():
            return path, step
    raise ValueError(
        f"{option} must name a run folder (with config.yaml), a run in output_dir, or "
        f"a checkpoint RUN/checkpoints/STEP, got {resume!r}"
    )


def run_of(model: str) -> Path | None:
    """The run that a model is of, if it is named by its folder or a checkpoint."""
    try:
        return find(model, ".", "--model")[0]
    except ValueError:
        return None


def named_step(resume: str | Path) -> int | None:
    """The step of `RUN/checkpoints/STEP`; None where a whole run is named."""
    path = Path(resume)
    plain = path.name.isdecimal() and path.name.isascii()
    named = plain and path.parent.name == "checkpoints"
    return int(path.name) if named else None


def resumed_config(path: Path, overrides: dict[str, Any]) -> Config:
    """The saved config of a run with those `overrides` that a resumed run may change.

    Raises:
      ValueError: naming every field that differs and may not.
    """
    file = path / "config.yaml"
    return changed_config(load_config(file), overrides, str(file))


def changed_config(
    saved: Config, overrides: dict[str, Any], where: str, free: tuple[str, ...] = ()
) -> Config:
    """The saved config with overrides, if they may change.

    Args:
      where: it was saved, for messages.
      free: beginnings of more names that may change.

    Raises:
      ValueError: naming every field that differs and may not.
    """
    before = flatten(saved)
    changed = {
        name: value for name, value in overrides.items() if before.get(name) != value
    }
    refused = [
        f"{name} (was {before.get(name)!r}, got {changed[name]!r})"
        for name in sorted(changed)
        if name not in FREE_ON_RESUME and not name.startswith(free)
    ]
    if refused:
        raise ValueError(
            f"a resumed run must keep its config ({where}), got other values: "
            f"{', '.join(refused)}"
        )
    kept = {n: v for n, v in changed.items() if n not in ("output_dir", "run_name")}
    return build({**before, **kept})


def recorded_inputs(path: Path) -> dict[str, str]:
    """The digests that a run was started with; `{}` before it has written them."""
    file = path / "inputs.json"
    if not file.exists():
        return {}
    found = read_object(file)
    if not all(isinstance(digest, str) for digest in found.values()):
        raise ValueError(f"{file} must hold an object of strings, got other values")
    return found


def check_inputs(path: Path, inputs: dict[str, str]) -> None:
    """Keeps the digests of data, tokenizer and models; they must stay the same.

    Raises:
      ValueError: naming what differs.
    """
    file = path / "inputs.json"
    if not file.exists():
        write_json(file, inputs)
        return
    before = recorded_inputs(path)
    differ = sorted(k for k in inputs | before if before.get(k) != inputs.get(k))
    if differ:
        raise ValueError(
            f"a resumed run must have the inputs it started with ({file}), got another "
            f"{', '.join(differ)}"
        )


def note_origin(path: Path, folder: Path) -> None:
    """Keeps which exported folder a run was made of, until it has a checkpoint."""
    origin = {"folder": str(folder.absolute()), "header": file_digest(folder / HEADER)}
    write_json(path / ORIGIN, origin)


def origin_of(path: Path) -> Path | None:
    """The exported folder that a run without a checkpoint has to be made of again.

    Raises:
      ValueError: if the folder is not any more what it was.
    """
    if steps_in(path / "checkpoints") or not (path / ORIGIN).is_file():
        return None
    origin = read_object(path / ORIGIN)
    folder, digest = origin.get("folder"), origin.get("header")
    if not isinstance(folder, str) or "\0" in folder:
        raise ValueError(f"{path / ORIGIN} must name a folder, got {folder!r}"[:300])
    header = Path(folder) / HEADER
    if not header.is_file() or file_digest(header) != digest:
        raise ValueError(
            f"the run {path} has no checkpoint yet, and must have the folder that it "
            f"goes on from, got another or none in {folder}"
        )
    return header.parent


def check_backend(path: Path, backend: str, instead: str) -> None:
    """Refuses a run that the other trainer has written.

    Args:
      instead: what the user can do.

    Raises:
      ValueError: if `inputs.json` of the run names another backend.
    """
    wrote = recorded_inputs(path).get("backend", backend)
    if wrote != backend:
        raise ValueError(
            f"the run must be one of {backend}, got {path}, which {wrote} has written "
            f"({instead})"
        )


class Held(ValueError):
    """Another process writes to the run."""


def lock(path: Path) -> FileLock:
    """Holds the run folder; a second trainer on it is refused.

    Raises:
      Held: if another process does.
      ValueError: if nobody can write there, or would write elsewhere.
    """
    _refuse_links(path)
    required = "the run's folder must be one that can be written"
    effective = os.access in os.supports_effective_ids
    if not os.access(path, os.W_OK, effective_ids=effective):
        raise ValueError(f"{required}, got {str(path)!r}: it is read-only")
    held = FileLock(path / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise Held(
            f"only one trainer may write to a run, got {path}, which another process "
            "is writing to"
        ) from None
    except OSError as error:
        raise cannot_write(required, path, error) from None
    return held


def _refuse_links(path: Path) -> None:
    """Keeps a run that somebody has sent from having us write to files elsewhere.

    The folder itself may be a link: that is the user's own.
    """
    folder = Path(os.path.realpath(path))
    for within in (path, path / "checkpoints"):
        for place in sorted(within.iterdir()) if within.is_dir() else ():
            there = Path(os.path.realpath(place))
            if place.is_symlink() and not there.is_relative_to(folder):
                raise ValueError(
                    f"{place} must lie in the run's folder, got a link to {there}"
                )
