"""A run's folder: made once, never overwritten, found again by `--resume`."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from shared.config.fields import Config
from shared.config.layers import build, dump_config, flatten, load_config
from shared.files import write_json, write_text

# Fields that a resumed run may change: they decide how long it runs and what it tells,
# not what a step computes (but a linear or cosine schedule ends where the run does).
FREE_ON_RESUME = {
    "output_dir",
    "run_name",
    "verbose",
    "machine.device",
    "tracking.to",
    "tracking.tensorboard",
    "train.epochs",
    "train.export",
    "train.eval_every",
    "train.keep_checkpoints",
    "train.max_steps",
    "train.min_delta",
    "train.patience",
    "train.save_every",
}


def create(cfg: Config) -> tuple[Path, Config]:
    """Makes the folder of a new run and writes its resolved `config.yaml`.

    Raises:
      ValueError: if the folder exists or cannot be written.
    """
    name = cfg.run_name or f"{cfg.algo}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = Path(cfg.output_dir) / name
    cfg = replace(cfg, run_name=name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as error:
        if not path.parent.is_dir() or not path.exists():
            raise ValueError(
                "output_dir must be a folder that can be written, got "
                f"{cfg.output_dir!r}: {error.strerror}"
            ) from None
        raise ValueError(
            f"run_name must be new, got {name!r}, whose folder {path} exists (go on "
            f"with it by --resume {path})"
        ) from None
    write_text(path / "config.yaml", dump_config(cfg))
    return path, cfg


def find(
    resume: str, output_dir: str, option: str = "--resume"
) -> tuple[Path, int | None]:
    """The run that `option` names: a run's name, its folder, or one checkpoint in it.

    Returns:
      The run folder, and the step if a checkpoint (`RUN/checkpoints/STEP`) was named.

    Raises:
      ValueError: if there is no such run.
    """
    for path in (Path(resume), Path(output_dir) / resume):
        if (step := named_step(path)) is not None:
            path = path.parent.parent
        if (path / "config.yaml").is_file():
            return path, step
    raise ValueError(
        f"{option} must name a run folder (with config.yaml), a run in output_dir, or "
        f"a checkpoint RUN/checkpoints/STEP, got {resume!r}"
    )


def named_step(resume: str | Path) -> int | None:
    """The step of `RUN/checkpoints/STEP`; None where a whole run is named."""
    path = Path(resume)
    named = path.name.isdigit() and path.parent.name == "checkpoints"
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
    return json.loads(file.read_text()) if file.exists() else {}


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


def lock(path: Path) -> FileLock:
    """Holds the run folder; a second trainer on it is refused.

    Raises:
      ValueError: if another process holds it.
    """
    held = FileLock(path / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"only one trainer may write to a run, got {path}, which another process "
            "is writing to"
        ) from None
    return held
