"""The parameter tree of the trainers <-> named tensors in the layout of files.

Nothing here touches a disk: the trees may be parameters, or the moments of an optimizer
that another trainer goes on with.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.huggingface.names import (
    MODEL,
    TRUNK,
    VALUE,
    Piece,
    causal_pieces,
    reward_pieces,
)
from shared.huggingface.safetensors import StoredTensors

Params = dict[str, Any]
Tensors = Mapping[str, Mapping[str, Any]]  # file -> name -> array


def to_tensors(
    params: Params, cfg: ModelConfig, heads: HeadsConfig
) -> dict[str, dict[str, np.ndarray]]:
    """The tree as its files have it: file -> tensor name -> float32 array.

    Arrays share the memory of the tree where they can. Anything of the tree's shapes
    can be passed, the moments of an optimizer as well.

    Raises:
      ValueError: if the tree is not that of `cfg` and `heads`, naming the leaf.
    """
    leaves = dict(_flatten(params))
    kind = "reward" if "score" in params else "causal"
    pieces = _pieces(cfg, heads, kind, "value" in params, TRUNK[cfg.family]["prefix"])
    needed = {piece.path: piece.leaf for piece in pieces}
    for path in needed.keys() | leaves.keys():
        got = leaves[path].shape if path in leaves else "none"
        if got != needed.get(path):
            raise ValueError(
                f"params[{'/'.join(path)!r}] must be of shape "
                f"{needed.get(path, 'none (there is no such leaf)')}, got {got}"
            )
    made: dict[str, dict[str, np.ndarray]] = {}
    for piece in pieces:
        made.setdefault(piece.file, {})[piece.name] = piece.view(leaves[piece.path])
    return made


def from_tensors(
    tensors: Tensors,
    cfg: ModelConfig,
    heads: HeadsConfig,
    *,
    kind: str = "causal",
    source: str = "the files",
) -> Params:
    """The tree of these tensors, the inverse of `to_tensors`.

    Tensors are looked up one by one and copied into the stacked leaves, so that arrays
    that are read at look-up are never in memory all at once.

    Args:
      tensors: file -> tensor name -> array (or `StoredTensors`).
      kind: `causal` or `reward`.
      source: where they come from, for messages.

    Raises:
      ValueError: naming what is missing, extra or of another shape.
    """
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    for piece in find_pieces(tensors, cfg, heads, kind=kind, source=source):
        if piece.path not in leaves:
            leaves[piece.path] = np.empty(piece.leaf, np.float32)
        piece.view(leaves[piece.path])[...] = tensors[piece.file][piece.name]
    tree = _nest(leaves)
    return tree if kind == "reward" else {"heads": {}} | tree


def find_pieces(
    tensors: Tensors, cfg: ModelConfig, heads: HeadsConfig, *, kind: str, source: str
) -> list[Piece]:
    """Which tensor is which part of the tree; names and shapes checked, nothing read.

    Raises:
      ValueError: as `from_tensors`.
    """
    base, names = tensors.get(MODEL, {}), TRUNK[cfg.family]
    # Base models without a task's head on them are stored without the prefix.
    bare = names["embed"] in base
    prefix = "" if bare else names["prefix"]
    pieces = _pieces(cfg, heads, kind, VALUE in tensors, prefix)
    _check_names(tensors, pieces, source)
    for piece in pieces:
        _check_shape(tensors[piece.file], piece, source)
    return pieces


def _pieces(
    cfg: ModelConfig, heads: HeadsConfig, kind: str, value: bool, prefix: str
) -> list[Piece]:
    if kind == "reward":
        return reward_pieces(cfg, prefix=prefix)
    return causal_pieces(cfg, heads, value=value, prefix=prefix)


def _check_names(tensors: Tensors, pieces: list[Piece], source: str) -> None:
    needed = {(piece.file, piece.name): piece for piece in pieces}
    found = {(file, name) for file, of_file in tensors.items() for name in of_file}
    missing = [key for key in needed if key not in found]
    if missing:
        file, name = missing[0]
        raise ValueError(
            f"{source} must hold tensor {name!r} of shape "
            f"{needed[file, name].shape} in {file}, got none"
            f"{_more(len(missing) - 1, 'missing')}"
        )
    extra = sorted(found - needed.keys())
    if extra:
        names = ", ".join(repr(name) for _, name in extra[:3])
        raise ValueError(
            f"{source} must hold only the tensors that its config.json asks for in "
            f"{extra[0][0]}, got {names}{_more(len(extra) - 3, 'extra')}"
        )


def _more(count: int, what: str) -> str:
    return f" ({count} more {what})" if count > 0 else ""


def _check_shape(of_file: Mapping[str, Any], piece: Piece, source: str) -> None:
    if isinstance(of_file, StoredTensors):
        stored = of_file.data[piece.name]
        got, source = stored.shape, str(stored.file)
    else:
        got = tuple(np.shape(of_file[piece.name]))
    if got != piece.shape:
        raise ValueError(
            f"tensor {piece.name!r} must be of shape {piece.shape} by its config.json, "
            f"got {got} in {source}"
        )


def _flatten(
    tree: Params, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(dict(value), (*path, name))
        else:
            yield (*path, name), np.asarray(value, np.float32)


def _nest(leaves: dict[tuple[str, ...], np.ndarray]) -> Params:
    tree: Params = {}
    for path, leaf in leaves.items():
        at = tree
        for name in path[:-1]:
            at = at.setdefault(name, {})
        at[path[-1]] = leaf
    return tree
