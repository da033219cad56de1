"""The parameter tree of a model folder, of which parts are read when asked for.

    tree = open_tree(tensors, cfg, heads)      # nothing but headers has been read
    tree["trunk"]["embed"].read((slice(0, 100), slice(None)))

A trainer on many devices reads for each of them what it keeps, and no more: neither a
device nor this process ever has the whole model.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.huggingface.names import Piece
from shared.huggingface.safetensors import StoredTensors
from shared.huggingface.tree import find_pieces

Tree = dict[str, Any]  # nested dicts of `Leaf`, or of arrays
Index = tuple[slice, ...]


@dataclass(frozen=True)
class Leaf:
    """One array of the tree, float32, as it lies in files.

    Attributes:
      shape: of the whole; a stacked one may have fewer layers or heads than the files.
      pieces: the tensors that it is made of.
    """

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    tensors: StoredTensors

    def read(self, index: Index = ()) -> np.ndarray:
        """A part of it, `array[index]`; of each tensor only what is in it is read.

        Args:
          index: a slice for each axis, without steps; all of those left out.

        Raises:
          ValueError: if a file was damaged since it was opened.
        """
        whole = (*index, *[slice(None)] * (len(self.shape) - len(index)))
        wanted = [range(n)[at] for n, at in zip(self.shape, whole, strict=True)]
        found = np.empty([len(x) for x in wanted], np.float32)
        for piece in self.pieces if found.size else ():
            self._fill(found, wanted, piece)
        return found

    def first(self, count: int) -> "Leaf":
        """The first layers or heads of a stacked one."""
        return replace(self, shape=(min(count, self.shape[0]), *self.shape[1:]))

    def _fill(self, found: np.ndarray, wanted: list[range], piece: Piece) -> None:
        """Reads what is wanted of one tensor to its place in `found`."""
        axes = list(wanted)
        place: list[Any] = []
        if piece.stack is not None:
            layers = axes.pop(0)
            if piece.stack[0] not in layers:
                return
            place.append(piece.stack[0] - layers.start)
        inside = [slice(x.start, x.stop) for x in axes]
        here = [slice(None)] * len(axes)
        if piece.columns is not None:
            first = max(axes[-1].start, piece.columns.start)
            last = min(axes[-1].stop, piece.columns.stop)
            if first >= last:
                return
            offset = piece.columns.start
            inside[-1] = slice(first - offset, last - offset)
            here[-1] = slice(first - axes[-1].start, last - axes[-1].start)
        found[(*place, *here)] = self._part(piece, inside)

    def _part(self, piece: Piece, inside: list[slice]) -> Any:
        """A part of a tensor, with the axes of the leaf."""
        if piece.name not in self.tensors:
            return piece.absent
        stored = inside[::-1] if piece.turned else inside
        stored = [slice(0, 1), *stored] if piece.row else stored
        part = self.tensors.part(piece.name, tuple(stored))
        part = part[0] if piece.row else part
        return part.T if piece.turned else part


def open_tree(
    tensors: StoredTensors,
    cfg: ModelConfig,
    heads: HeadsConfig,
    *,
    parts: Collection[str] = (),
    source: str = "the files",
) -> Tree:
    """The tree of these tensors, as `tree.from_tensors` would read it.

    Args: as there.

    Raises:
      ValueError: as there; of names and shapes, since no tensor is read.
    """
    of_path: dict[str, list[Piece]] = {}
    for piece in find_pieces(tensors, cfg, heads, parts=parts, source=source):
        of_path.setdefault(piece.path, []).append(piece)
    tree: Tree = {} if "score" in parts else {"heads": {}}
    for path, pieces in of_path.items():
        *groups, last = path.split("/")
        at = tree
        for name in groups:
            at = at.setdefault(name, {})
        at[last] = Leaf(pieces[0].leaf, tuple(pieces), tensors)
    return tree


def each(change: Callable[[Leaf], Any], tree: Tree) -> Tree:
    """The tree with `change` of every leaf in its place."""
    return {
        name: change(x) if isinstance(x, Leaf) else each(change, x)
        for name, x in tree.items()
    }
