"""Checkpoints: everything a run needs to go on as if it had never stopped.

    RUN/checkpoints/STEP/state          every array, by Orbax
    RUN/checkpoints/STEP/position.json  position in the data, best nll, and so on
    RUN/checkpoints/STEP/manifest.json  size and digest of every file

A checkpoint has its name once all of it is on the disk, so a killed save leaves no half
one. Orbax does not notice a flipped bit in an array: every file is held against the
manifest before it is read. What was saved before there was a manifest, by Orbax's own
manager, has a checksum of its arrays in `position/metadata`, and is read as well.
"""

import logging
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from shared.config.fields import Config, TrainConfig
from shared.files import new_folder, write_json
from shared.huggingface.json_keys import read_keys
from shared.messages import first_line
from shared.run.peers import ALONE, Peers
from shared.state.checkpoints import (
    drop_superseded,
    make_room,
    newest_whole,
    require_finite,
    steps_in,
    written,
)
from shared.state.manifest import MANIFEST, check_manifest, write_manifest
from wmtp_jax import critic, layout
from wmtp_jax.model import Params
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.processes import pieces_here
from wmtp_jax.sharding import is_out_of_memory
from wmtp_jax.state import TrainState, abstract_state, tensor_names

POSITION = "position.json"
# What the system said, without the places in Orbax's files that it said it of.
SYSTEM = re.compile(r": ([^:]+) \[os_error_code")


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
    run: Path,
    cfg: Config,
    step: int | None = None,
    mesh: Mesh | None = None,
    peers: Peers = ALONE,
) -> tuple[int, TrainState, dict]:
    """`(step, state, position)` of a run's checkpoint (its newest).

    Args:
      mesh, peers: as of `restore`.

    Raises:
      ValueError: if there is none, as well as for what `restore` refuses.
    """
    like = abstract_state(cfg, make_optimizer(cfg, 1))
    found = restore(run, like, step, mesh, peers)
    if found is None:
        raise ValueError(f"RUN must hold a checkpoint, got none in {run}")
    return found


def read_trunk(
    run: Path, cfg: Config, step: int | None, mesh: Mesh, peers: Peers
) -> Params:
    """The trunk of a run's checkpoint (its newest), without heads."""
    _, state, _ = read_run(run, cfg, step, mesh, peers)
    return {"trunk": state.params["trunk"], "heads": {}}


def save(
    run: Path,
    step: int,
    state: TrainState,
    position: dict,
    cfg: TrainConfig,
    peers: Peers = ALONE,
) -> None:
    """Writes one checkpoint, and removes those that it supersedes.

    Args:
      position: JSON: data position, best nll, and so on.
      cfg: how many stay, and whether the best one does.
      peers: all of which write the pieces of arrays that they have; the first does the
        rest.

    Raises:
      FloatingPointError: if an array is not finite.
      OSError: if it cannot be written, whatever Orbax makes of the reason.
    """
    folder, tree = run / "checkpoints", _to_tree(state)
    named = zip(tensor_names(tree), jax.tree.leaves(tree), strict=True)
    require_finite(step, ((name, x) for name, of in named for x in pieces_here(of)))
    with written(folder, step):
        if not peers.is_first:
            made = Path(peers.told("save", lambda: ""))
            _write_arrays(made / "state", tree)
            peers.told("saved", lambda: step)
            return
        make_room(folder, step)
        with new_folder(folder / str(step), "a checkpoint's folder") as made:
            peers.told("save", lambda: str(made))
            _write_arrays(made / "state", tree)
            write_json(made / POSITION, position)
            write_manifest(made, step)
        drop_superseded(folder, position, cfg)
        peers.told("saved", lambda: step)


def _write_arrays(folder: Path, tree: Any) -> None:
    try:
        with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            writer.save(folder.resolve(), args=ocp.args.StandardSave(tree))
    except (ValueError, RuntimeError) as error:
        found = SYSTEM.search(str(error))
        raise OSError(found[1] if found else first_line(error)[:200]) from error


def restore(
    run: Path,
    like: TrainState,
    step: int | None = None,
    mesh: Mesh | None = None,
    peers: Peers = ALONE,
) -> tuple[int, TrainState, dict] | None:
    """What `newest_whole` finds; `like` has the shapes and dtypes of the state.

    Args:
      mesh: whose devices keep it, each its own part, whatever it was saved by; without,
        the first device has it all.
      peers: which read together; the first alone holds files against their digests.
    """
    folder = run / "checkpoints"
    steps = peers.told("steps", lambda: steps_in(folder))
    return newest_whole(
        folder, steps, step, lambda n: _read(folder, n, like, mesh, peers)
    )


def _read(
    folder: Path, step: int, like: TrainState, mesh: Mesh | None, peers: Peers
) -> tuple[TrainState, dict]:
    here = folder / str(step)
    position, checksum = peers.told("position", lambda: _position_of(here, step))
    # Restoring into the live state's structure, never "as saved": a tuple that comes
    # back as a list is a different optimizer state.
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    tree = jax.eval_shape(_to_tree, like)
    try:
        with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            older = "value" in like.params and _lacks_standards(reader, here / "state")
            tree = critic.without_standards(tree) if older else tree
            abstract = jax.tree.map(
                lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
                tree,
                jax.tree.map(lambda _: device, tree)
                if mesh is None
                else layout.kept(mesh, tree),
            )
            wanted = ocp.args.StandardRestore(abstract)
            found = reader.restore((here / "state").resolve(), args=wanted)
    except Exception as error:  # Orbax raises many kinds, of many lines
        if is_out_of_memory(error):
            raise MemoryError(first_line(error)) from error
        raise ValueError(
            "a file of it is missing or damaged, or its config is another "
            f"({type(error).__name__})"
        ) from error
    alone = peers.count == 1  # an older one, whose arrays no process has whole
    if checksum is not None and alone and _checksum(found) != checksum:
        raise ValueError("its arrays do not have the checksum they were saved with")
    state = TrainState(**(critic.with_standards(found) if older else found))
    return replace(state, key=jax.random.wrap_key_data(state.key)), position


def _position_of(folder: Path, step: int) -> tuple[dict, str | None]:
    """The position of a checkpoint whose files are whole; a checksum of its arrays.

    Only what is older than the manifest has a checksum, and nothing else to be held
    against: a newer one without its manifest is damaged.
    """
    if (folder / MANIFEST).exists() or (folder / POSITION).exists():
        check_manifest(folder, step)
        return read_keys(folder / POSITION).found, None
    position = read_keys(folder / "position" / "metadata").found
    if "checksum" not in position:
        raise ValueError(f"{folder} must hold a {MANIFEST} or a checksum, got neither")
    return position, position.pop("checksum")


def _lacks_standards(reader: ocp.Checkpointer, folder: Path) -> bool:
    """Whether the value head is of before it standardised what it reads."""
    names = reader.metadata(folder.resolve()).item_metadata.tree["params"]["value"]
    return "mean" not in names


def _to_tree(state: TrainState) -> dict[str, Any]:
    return vars(state) | {"key": jax.random.key_data(state.key)}


def _checksum(tree: Any) -> str:
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).reshape(-1), total)
    return f"{total:08x}"
