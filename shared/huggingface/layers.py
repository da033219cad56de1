"""The parameters for decoding: layer by layer, every matrix [out, in].

A trainer stacks layers, and keeps matrices [in, out], for its scan. A step of decoding
reads every weight once and little else, so each layer's matrices lie apart, as rows
that one output reads in order; what reads the same input is one matrix.

    {"embed": [V, D], "place": [P, D], "unembed": [V, D], "norm": {...},
     "layers": ({"norm1": ..., "qkv": {"kernel": [X, D], "bias": [X]}, "out": ...,
                 "norm2": ..., "up": {"kernel": [2 F or F, D], ...}, "down": ...}, ...),
     "heads": ({...}, ...)}

Axes: V vocabulary, D width, F inner width of a block, P places, X queries, keys and
values of a layer.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.huggingface.folder import open_stored
from shared.huggingface.names import Piece
from shared.huggingface.tree import Params, Tensors, find_pieces, to_tensors

Place = Callable[[np.ndarray], Any]
MATRICES = ("kernel", "inner", "outer")  # kept [in, out] in the tree of a trainer


def read_layers(
    folder: Path, cfg: ModelConfig, heads: HeadsConfig, place: Place
) -> Params:
    """The parameters of a model folder, one tensor after the other.

    Args:
      heads: as many as are wanted, at most those of the folder.
      place: puts an array where it stays (`jnp.asarray`); the array is not kept.

    Raises:
      ValueError: as `read_model`.
    """
    tensors, stored, parts = open_stored(folder, cfg)
    if heads.count > stored.count:
        raise ValueError(
            f"{folder} must hold {heads.count} heads, got {stored.count} in it"
        )
    pieces = find_pieces(tensors, cfg, stored, parts=parts, source=str(folder))
    return _layered(tensors, pieces, cfg, heads, place)


def layers_of(
    params: Params, cfg: ModelConfig, heads: HeadsConfig, place: Place
) -> Params:
    """The same of a trainer's tree, of which nothing is copied before it is placed."""
    causal = {name: params[name] for name in ("trunk", "heads")}
    tensors = to_tensors(causal, cfg, heads)
    pieces = find_pieces(tensors, cfg, heads, parts=(), source="params")
    return _layered(tensors, pieces, cfg, heads, place)


def _layered(
    tensors: Tensors,
    pieces: list[Piece],
    cfg: ModelConfig,
    heads: HeadsConfig,
    place: Place,
) -> Params:
    found: Params = {
        "layers": [{} for _ in range(cfg.num_layers)],
        "heads": [{} for _ in range(heads.count - 1)],
    }
    for path, where in groupby(pieces, lambda piece: (piece.path, piece.stack)):
        parts = list(where)
        root, names = _home(found, parts[0])
        if root is not None:
            _put(root, names, _matrix(tensors, parts, path[0].rsplit("/")[-1]), place)
    for block in (*found["layers"], *(h.get("block", {}) for h in found["heads"])):
        _fuse(block, place)
    if cfg.tie_embeddings:
        found["unembed"] = found["embed"]
    return found | {name: tuple(found[name]) for name in ("layers", "heads")}


def _home(found: Params, piece: Piece) -> tuple[Params | None, list[str]]:
    """Where a leaf of the trainer's tree goes: a dict, and names in it."""
    group, *names = piece.path.split("/")
    if group == "trunk" and names[0] != "blocks":
        return found, names
    if group == "trunk":
        at = found["layers"]
    elif group == "heads":
        at = found["heads"]
    else:
        return None, []
    assert piece.stack is not None
    number = piece.stack[0]
    if number >= len(at):  # a head that is not wanted
        return None, []
    if names[0] == "blocks":
        names = names[1:]
        if group == "heads":
            return at[number].setdefault("block", {}), _shorter(names)
        return at[number], _shorter(names)
    return at[number], ["norm", *names[1:]] if names[0] == "norms" else names


def _shorter(names: list[str]) -> list[str]:
    return names[1:] if names[0] == "attention" else names


def _matrix(tensors: Tensors, parts: list[Piece], leaf: str) -> np.ndarray:
    """The leaf of these pieces, a matrix of a layer turned to [out, in]."""
    alone = [replace(piece, stack=None) for piece in parts]
    if leaf not in MATRICES:
        array = np.empty(alone[0].inner, np.float32)
        for piece in alone:
            piece.view(array)[...] = tensors[piece.name]
        return array
    array = np.empty(alone[0].inner[::-1], np.float32)
    for piece in alone:
        piece.view(array.T)[...] = tensors[piece.name]
    return array


def _put(root: Params, names: list[str], array: np.ndarray, place: Place) -> None:
    for name in names[:-1]:
        root = root.setdefault(name, {})
    # What waits to be fused stays where it is.
    waits = names[0] in ("gate", "up") and len(names) == 2
    root[names[-1]] = array if waits else place(array)


def _fuse(block: Params, place: Place) -> None:
    """Gate and up read the same input: one matrix, the gate's rows first."""
    if "up" not in block:
        return
    up, gate = block["up"], block.pop("gate", None)
    if gate is not None:
        up = {name: np.concatenate([gate[name], x]) for name, x in up.items()}
    block["up"] = {name: place(x) for name, x in up.items()}
