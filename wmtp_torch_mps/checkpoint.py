"""Checkpoints: each is a model folder with the state of its training beside the model.

`RUN/checkpoints/STEP` appears once all of it is on the disk or not at all, every file
is held against its digest in `training_state.json` before it is read, and stock
`transformers`, or `wmtp_jax`, can go on from it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from shared.config.fields import Config
from shared.data.tokenizer import Tokenizer
from shared.huggingface.folder import read_model
from shared.huggingface.tree import Params
from shared.state.checkpoints import (
    drop_superseded,
    make_room,
    named_arrays,
    newest_whole,
    require_finite,
    require_step,
    steps_in,
    written,
)
from shared.state.portable_state import TrainingState, read_state, write_training
from shared.state.run_folder import recorded_inputs
from wmtp_torch_mps import NAME
from wmtp_torch_mps.model import WMTP, by_name, fill, from_tree, named
from wmtp_torch_mps.optimizer import moments_of, restore_moments
from wmtp_torch_mps.state import TrainState, init_state


def save(
    run: Path,
    step: int,
    state: TrainState,
    position: dict[str, Any],
    tokenizer: Tokenizer,
) -> None:
    """Writes one checkpoint, and removes those that it supersedes.

    Args:
      position: JSON: data position, best nll, and so on.

    Raises:
      FloatingPointError: if an array is not finite.
      OSError: if it cannot be written.
    """
    folder = run / "checkpoints"
    with written(folder, step):
        make_room(folder, step)
        write(folder / str(step), run, state, position, tokenizer)
        drop_superseded(folder, position, state.params.cfg.train)


def write(
    folder: Path,
    run: Path,
    state: TrainState,
    position: dict[str, Any],
    tokenizer: Tokenizer,
    card: Callable[[Path], None] | None = None,
) -> None:
    """Model and training state as one new folder.

    Args:
      card: writes the model card of an export beside it.
    """
    model, cfg = state.params, state.params.cfg
    state.optimizer.zero_grad(set_to_none=True)  # of the step before; memory for this
    moments = moments_of(state.optimizer, model)
    kept = TrainingState(
        backend=NAME,
        step=state.step,
        moments={name: by_name(of) for name, of in moments.items()},
        position=position,
        config=cfg,
        inputs=recorded_inputs(run),
        versions={"torch": torch.__version__},
        updates=state.step - int(state.skipped),
        adapted=_adapted(state),
    )
    params = by_name(named(model))
    for tree in (params, kept.moments):
        require_finite(state.step, named_arrays(tree))
    write_training(folder, params, kept, tokenizer, run, card)


def _adapted(state: TrainState) -> dict[str, float] | None:
    """What float16 and a lack of memory have come to; None where nothing has."""
    waited = int(state.skipped_frozen)
    if not state.scaler.is_enabled() and state.splits == 1 and not waited:
        return None
    scaler = state.scaler.state_dict()
    found = {name: float(scaler.get(name, 0)) for name in ("scale", "_growth_tracker")}
    if waited:
        found["skipped_frozen"] = float(waited)
    return found | {"splits": float(state.splits)}


def read_trunk(run: Path, cfg: Config, step: int | None = None) -> Params:
    """The trunk of a run's checkpoint (its newest) as NumPy arrays, without heads."""
    folder = run / "checkpoints"
    wanted = require_step(folder, steps_in(folder), step)
    return read_model(folder / str(wanted), cfg.model, extras=False)


def read_run(
    run: Path, cfg: Config, step: int | None = None
) -> tuple[int, TrainState, dict[str, Any]]:
    """`(step, state, position)` of a run's checkpoint (its newest), on the CPU.

    Raises:
      ValueError: if there is none, as well as for what `restore` refuses.
    """
    found = restore(run, cfg, torch.device("cpu"), step)
    if found is None:
        raise ValueError(f"RUN must hold a checkpoint, got none in {run}")
    return found


def restore(
    run: Path, cfg: Config, device: torch.device, step: int | None = None
) -> tuple[int, TrainState, dict[str, Any]] | None:
    """What `newest_whole` finds, on the device."""
    folder = run / "checkpoints"

    def read_step(number: int) -> tuple[TrainState, dict[str, Any]]:
        state, position = read(folder / str(number), cfg, device)
        if state.step != number:
            raise ValueError(f"it must be of step {number}, got of step {state.step}")
        return state, position

    return newest_whole(folder, steps_in(folder), step, read_step)


def read(
    folder: Path, cfg: Config, device: torch.device
) -> tuple[TrainState, dict[str, Any]]:
    """`(state, position)` of a folder that either backend has written.

    Raises:
      ValueError: if a file is damaged or does not fit the config.
    """
    params, kept = read_state(folder)
    model = WMTP(cfg)
    fill(model, from_tree(params, cfg))
    state = init_state(model.to(device))
    moments = {
        name: from_tree(tree, cfg, trunk=not cfg.heads.only)
        for name, tree in kept.moments.items()
    }
    found = kept.adapted or {}
    state.splits = int(found.get("splits", 1))
    state.step, state.skipped = kept.step, kept.step - kept.updates
    state.skipped_frozen = int(found.get("skipped_frozen", 0))
    frozen = min(kept.step, cfg.head_warmup) - state.skipped_frozen
    restore_moments(state.optimizer, model, moments, kept.updates, frozen)
    if state.scaler.is_enabled() and "scale" in found:
        counted = {"_growth_tracker": int(found["_growth_tracker"])}
        scale = {"scale": found["scale"]} | counted
        state.scaler.load_state_dict(state.scaler.state_dict() | scale)
    return state, kept.position
