"""The parameter tree of the trainers <-> named tensors in the layout of files.

Nothing here touches a disk: the trees may be parameters, or the moments of an optimizer
that another trainer goes on with.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.huggingface.names import TRUNK, VALUE, Piece, file_of, pieces_of
from shared.huggingface.safetensors import StoredTensors

Params = dict[str, Any]
Tensors = Mapping[str, Any]  # name -> array; a name tells its file (`names.file_of`)


class ByName(dict[str, np.ndarray]):
    """Float32 arrays under their names in the files, in place of a tree.

    For whom a tree would be a copy: it stacks layers and heads.
    """


def to_tensors(
    params: Params, cfg: ModelConfig, heads: HeadsConfig, *, trunk: bool = True
) -> dict[str, np.ndarray]:
    """The tree as its files have it: tensor name -> float32 array.

    Arrays share the memory of the tree where they can. Anything of the tree's shapes
    can be passed, the moments of an optimizer as well.

    Args:
      trunk: whether the tree has one; moments of heads alone have none.

    Raises:
      ValueError: if the tree is not that of `cfg` and `heads`, naming the leaf.
    """
    if isinstance(params, ByName):
        parts = {"value"} if any(file_of(name) == VALUE for name in params) else ()
        find_pieces(params, cfg, heads, parts=parts, source="params", trunk=trunk)
        return params
    leaves = dict(_flatten(params))
    prefix = TRUNK[cfg.family]["prefix"]
    pieces = pieces_of(cfg, heads, params, prefix=prefix, trunk=trunk)
    needed = {piece.path: piece.leaf for piece in pieces}
    for path in needed.keys() | leaves.keys():
        got = leaves[path].shape if path in leaves else "none"
        if got != needed.get(path):
            raise ValueError(
                f"params[{path!r}] must be of shape "
                f"{needed.get(path, 'none (there is no such leaf)')}, got {got}"
            )
    return {piece.name: piece.view(leaves[piece.path]) for piece in pieces}


def from_tensors(
    tensors: Tensors,
    cfg: ModelConfig,
    heads: HeadsConfig,
    *,
    parts: Collection[str] = (),
    source: str = "the files",
    moments: bool = False,
    trunk: bool = True,
) -> Params:
    """The tree of these tensors, the inverse of `to_tensors`.

    Tensors are looked up one by one and copied into the stacked leaves, so that arrays
    that are read at look-up are never in memory all at once.

    Args:
      tensors: name -> array (or `StoredTensors`).
      parts: `value` if the tree has one, `score` if it is a reward model's.
      source: where they come from, for messages.
      trunk: whether it is among them.

    Raises:
      ValueError: naming what is missing, extra or of another shape.
    """
    leaves: dict[str, np.ndarray] = {}
    for piece in find_pieces(
        tensors, cfg, heads, parts=parts, source=source, trunk=trunk
    ):
        if piece.path not in leaves:
            leaves[piece.path] = np.empty(piece.leaf, np.float32)
        there = piece.name in tensors
        found = tensors[piece.name] if there else (0.0 if moments else piece.absent)
        piece.view(leaves[piece.path])[...] = found
    tree: Params = {} if "score" in parts else {"heads": {}}
    for path, leaf in leaves.items():
        *groups, last = path.split("/")
        at = tree
        for name in groups:
            at = at.setdefault(name, {})
        at[last] = leaf
    return tree


def find_pieces(
    tensors: Tensors,
    cfg: ModelConfig,
    heads: HeadsConfig,
    *,
    parts: Collection[str],
    source: str,
    trunk: bool = True,
) -> list[Piece]:
    """Which tensor is which part of the tree; names and shapes checked, nothing read.

    Args: as of `from_tensors`.

    Raises:
      ValueError: as `from_tensors`.
    """
    names = TRUNK[cfg.family]
    # Base models without a task's head on them are stored without the prefix.
    prefix = "" if names["embed"] in tensors else names["prefix"]
    pieces = pieces_of(cfg, heads, parts, prefix=prefix, trunk=trunk)
    _check_names(tensors, pieces, source)
    for piece in pieces:
        if piece.name in tensors:
            _check_shape(tensors, piece, source)
    return pieces


def _check_names(tensors: Tensors, pieces: list[Piece], source: str) -> None:
    missing = [p for p in pieces if p.name not in tensors and p.absent is None]
    if missing:
        name, shape = missing[0].name, missing[0].shape
        raise ValueError(
            f"{source} must hold tensor {name!r} of shape {shape} in {file_of(name)}, "
            f"got none{_more(len(missing) - 1, 'missing')}"
        )
    extra = sorted(tensors.keys() - {piece.name for piece in pieces})
    if extra:
        raise ValueError(
            f"{source} must hold only the tensors that its config.json asks for in "
            f"{file_of(extra[0])}, got {', '.join(map(repr, extra[:3]))}"
            f"{_more(len(extra) - 3, 'extra')}"
        )


def _more(count: int, what: str) -> str:
    return f" ({count} more {what})" if count > 0 else ""


def _check_shape(tensors: Tensors, piece: Piece, source: str) -> None:
    if isinstance(tensors, StoredTensors):
        stored = tensors.data[piece.name]
        got, source = stored.shape, str(stored.file)
    else:
        got = tuple(np.shape(tensors[piece.name]))
    if got != piece.shape:
        raise ValueError(
            f"tensor {piece.name!r} must be of shape {piece.shape} by its config.json, "
            f"got {got} in {source}"
        )


def _flatten(tree: Params, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(dict(value), f"{path}{name}/")
        else:
            yield path + name, np.asarray(value, np.float32)
