"""What a trainer's checkpoint holds, as bytes: for comparing two runs bit by bit."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from shared.config.layers import load_config


def bytes_of(package: str, run: Path, step: int) -> dict[str, bytes]:
    """Every array of a run's checkpoint by name, and what goes with them."""
    read = {"wmtp_jax": _of_jax, "wmtp_torch_mps": _of_torch}[package]
    tree, position = read(run, step)
    found = {name: np.asarray(x).tobytes() for name, x in sorted(tree.items())}
    return found | {"position": repr(sorted(position.items())).encode()}


def digest_of(package: str, run: Path, step: int) -> str:
    """SHA-256 of all of it."""
    digest = hashlib.sha256()
    for name, content in bytes_of(package, run, step).items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _of_jax(run: Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    import jax

    from wmtp_jax import checkpoint
    from wmtp_jax.state import tensor_names

    cfg = load_config(run / "config.yaml")
    _, state, position = checkpoint.read_run(run, cfg, step)
    tree = vars(state) | {"key": jax.random.key_data(state.key)}
    return dict(zip(tensor_names(tree), jax.tree.leaves(tree), strict=True)), position


def _of_torch(run: Path, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    from wmtp_torch_mps import checkpoint
    from wmtp_torch_mps.model import named
    from wmtp_torch_mps.optimizer import moments_of

    cfg = load_config(run / "config.yaml")
    _, state, position = checkpoint.read_run(run, cfg, step)
    tree = {name: x.detach() for name, x in named(state.params).items()}
    for moment, of in moments_of(state.optimizer, state.params).items():
        tree |= {f"{moment}/{name}": x for name, x in of.items()}
    return tree | {"step": state.step}, position
