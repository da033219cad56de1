"""Checkpoints: everything a run needs to go on as if it had never stopped.

Orbax writes each step into a temporary folder and renames it, so a killed save leaves
no half checkpoint. It does not notice a flipped bit in an array, so a checksum over all
arrays travels with them and is compared when they are read.
"""

import logging
import re
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from shared.config.fields import Config, TrainConfig
from shared.messages import first_line
from shared.state.checkpoints import (
    best_kept,
    newest_whole,
    require_finite,
    superseded,
)
from wmtp_jax import critic, layout
from wmtp_jax.model import Params
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.sharding import is_out_of_memory
from wmtp_jax.state import TrainState, abstract_state, tensor_names

Manager = ocp.CheckpointManager


def open_manager(folder: Path) -> Manager:
    """The checkpoints in `folder`; which of them stay is for `save` to say."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=True,
    )
    return Manager(folder.resolve(), options=options)


def open_to_read(folder: Path) -> Manager:
    """The checkpoints of another run, which may still train: nothing is touched."""
    options = ocp.CheckpointManagerOptions(
        read_only=True, save_interval_steps=0, create=False
    )
    with _quiet():  # it warns of every read-only folder
        return Manager(folder.resolve(), options=options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Orbax's own words: tracebacks of its threads, of what it also raises.

    After an error it stays so, since other threads of it come to theirs later.
    """
    speak = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [x.level for x in speak], sys.excepthook

    def told(kind: Any, error: BaseException, where: Any) -> None:
        if "Event loop is closed" not in str(error):  # printed by its C++
            hook(kind, error, where)

    for logger in speak:
        logger.setLevel(logging.CRITICAL)
    sys.excepthook = told
    yield
    sys.excepthook = hook
    for logger, level in zip(speak, levels, strict=True):
        logger.setLevel(level)


def read_run(
    run: Path, cfg: Config, step: int | None = None, mesh: Mesh | None = None
) -> tuple[int, TrainState, dict]:
    """`(step, state, position)` of a run's checkpoint (its newest).

    Args:
      mesh: as of `restore`.

    Raises:
      ValueError: if there is none, as well as for what `restore` refuses.
    """
    with closing(open_to_read(run / "checkpoints")) as manager:
        like = abstract_state(cfg, make_optimizer(cfg, 1))
        found = restore(manager, like, step, mesh)
    if found is None:
        raise ValueError(f"RUN must hold a checkpoint, got none in {run}")
    return found


def read_trunk(run: Path, cfg: Config, step: int | None, mesh: Mesh) -> Params:
    """The trunk of a run's checkpoint (its newest), without heads."""
    _, state, _ = read_run(run, cfg, step, mesh)
    return {"trunk": state.params["trunk"], "heads": {}}


def save(
    manager: Manager, step: int, state: TrainState, position: dict, cfg: TrainConfig
) -> None:
    """Writes one checkpoint, and removes those that it supersedes.

    Args:
      position: JSON: data position, best nll, and so on.
      cfg: how many stay, and whether the best one does.

    Raises:
      FloatingPointError: if an array is not finite.
      OSError: if it cannot be written, whatever Orbax makes of the reason.
    """
    tree = _to_tree(state)
    require_finite(step, zip(tensor_names(tree), jax.tree.leaves(tree), strict=True))
    position = {**position, "checksum": _checksum(tree)}
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(tree), position=ocp.args.JsonSave(position)
    )
    try:
        with _quiet():
            manager.save(step, args=arguments, force=True)
            manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as error:
        for half in Path(manager.directory).glob(f"{step}.orbax-checkpoint-tmp*"):
            shutil.rmtree(half, ignore_errors=True)
        raise OSError(
            f"the checkpoint of step {step} must be written to {manager.directory}, "
            f"got: {_reason(error)}"
        ) from error
    best = best_kept(position["best_nll"], position["best_step"], cfg)
    for old in superseded(manager.all_steps(), cfg.keep_checkpoints, best):
        manager.delete(old)


def _reason(error: BaseException) -> str:
    """What the system said, without the places in Orbax's files that it said it of."""
    system = re.search(r": ([^:]+) \[os_error_code", str(error))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return system[1] if system else first_line(error)[:200]


def restore(
    manager: Manager,
    like: TrainState,
    step: int | None = None,
    mesh: Mesh | None = None,
) -> tuple[int, TrainState, dict] | None:
    """What `newest_whole` finds; `like` has the shapes and dtypes of the state.

    Args:
      mesh: whose devices keep it, each its own part, whatever it was saved by; without,
        the first device has it all.
    """
    folder, steps = Path(manager.directory), manager.all_steps()
    return newest_whole(folder, steps, step, lambda n: _read(manager, n, like, mesh))


def drop_after(manager: Manager, step: int) -> None:
    """Deletes the checkpoints after `step`: a run that goes on there makes them anew.

    Orbax neither writes a step that is there nor keeps an older one in its place.
    """
    for later in manager.all_steps():
        if later > step:
            manager.delete(later)


def _read(
    manager: Manager, step: int, like: TrainState, mesh: Mesh | None
) -> tuple[TrainState, dict]:
    # Restoring into the live state's structure, never "as saved": a tuple that comes
    # back as a list is a different optimizer state.
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tree = jax.eval_shape(_to_tree, like)
    folder = Path(manager.directory) / str(step) / "state"
    try:
        with _quiet():
            older = "value" in like.params and _lacks_standards(folder)
            tree = critic.without_standards(tree) if older else tree
            abstract = jax.tree.map(
                lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
                tree,
                jax.tree.map(lambda _: here, tree)
                if mesh is None
                else layout.kept(mesh, tree),
            )
            arguments = ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract),
                position=ocp.args.JsonRestore(),
            )
            restored = manager.restore(step, args=arguments)
        position = dict(restored["position"])
        checksum = position.pop("checksum")
    except Exception as error:  # Orbax raises many kinds, of many lines
        if is_out_of_memory(error):
            raise MemoryError(first_line(error)) from error
        raise ValueError(
            "a file of it is missing or damaged, or its config is another "
            f"({type(error).__name__})"
        ) from error
    if _checksum(restored["state"]) != checksum:
        raise ValueError("its arrays do not have the checksum they were saved with")
    found = restored["state"]
    state = TrainState(**(critic.with_standards(found) if older else found))
    return replace(state, key=jax.random.wrap_key_data(state.key)), position


def _lacks_standards(folder: Path) -> bool:
    """Whether the value head is of before it standardised what it reads."""
    with ocp.StandardCheckpointer() as reader:
        names = reader.metadata(folder).item_metadata.tree["params"]["value"]
    return "mean" not in names


def _to_tree(state: TrainState) -> dict[str, Any]:
    return vars(state) | {"key": jax.random.key_data(state.key)}


def _checksum(tree: Any) -> str:
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).reshape(-1), total)
    return f"{total:08x}"
