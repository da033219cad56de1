"""Ways of saving a model and its optimizer, for `benchmarks/damage.py`.

Each makes two checkpoints of two steps in a folder, and reads one back as bytes. The
trainers save a run of their own; the others a tree of arrays, as their guides do.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.states import bytes_of

SMALL = (
    "--model smoke --model.num-layers 1 --model.width 16 --heads 2 --tracking none "
    "--data.max-length 32 --train.max-steps 2 --train.save-every 1 --device cpu "
    "--train.keep-checkpoints 9 --train.eval-every 2 --train.inspect 0 --run-name run"
).split()
Made = tuple[Path, Path]


def arrays(step: int) -> dict[str, np.ndarray]:
    """Parameters and two moments, 0.5 MB, other ones at every step."""
    rng = np.random.default_rng(step)
    names = ("params", "first", "second")
    return {x: rng.standard_normal((4, 100, 100), np.float32) for x in names}


def flat(tree: dict[str, Any]) -> dict[str, bytes]:
    return {name: np.asarray(x).tobytes() for name, x in sorted(tree.items())}


def make_run(package: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        from importlib import import_module

        main = import_module(f"{package}.train").main
        assert main([*SMALL, "--output-dir", str(folder)]) == 0
        steps = folder / "run" / "checkpoints"
        return steps / "2", steps / "1"

    return make


def read_run(package: str) -> Callable[[Path], dict[str, bytes]]:
    return lambda folder: bytes_of(package, folder.parent.parent, int(folder.name))


def make_orbax(folder: Path) -> Made:
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder) as manager:
        for step in (1, 2):
            manager.save(step, args=ocp.args.StandardSave(arrays(step)))
        manager.wait_until_finished()
    return folder / "2", folder / "1"


def read_orbax(folder: Path) -> dict[str, bytes]:
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder.parent) as manager:
        found = manager.restore(2, args=ocp.args.StandardRestore(arrays(0)))
    return flat(found)


def make_safetensors(folder: Path) -> Made:
    from safetensors.numpy import save_file

    for step in (1, 2):
        (folder / str(step)).mkdir()
        save_file(arrays(step), folder / str(step) / "model.safetensors")
    return folder / "2", folder / "1"


def read_safetensors(folder: Path) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return flat(load_file(folder / "model.safetensors"))


def make_torch(folder: Path) -> Made:
    import torch

    for step in (1, 2):
        (folder / str(step)).mkdir()
        tree = {name: torch.from_numpy(x) for name, x in arrays(step).items()}
        torch.save(tree, folder / str(step) / "state.pt")
    return folder / "2", folder / "1"


def read_saved(folder: Path) -> dict[str, bytes]:
    import torch

    return flat(torch.load(folder / "state.pt", weights_only=True))


SAVERS: tuple[tuple[str, Callable[[Path], Made], Callable[[Path], object]], ...] = (
    ("wmtp_jax", make_run("wmtp_jax"), read_run("wmtp_jax")),
    ("wmtp_torch_mps", make_run("wmtp_torch_mps"), read_run("wmtp_torch_mps")),
    ("orbax", make_orbax, read_orbax),
    ("safetensors", make_safetensors, read_safetensors),
    ("torch.save", make_torch, read_saved),
)
