"""Where each array lies on a mesh of `data` x `fsdp` x `tensor` devices.

    rows of a batch      over data x fsdp
    matrices, kept       parameters and moments, in fsdp x tensor pieces
    matrices, in use     gathered over fsdp; `tensor` keeps the axis that it computes
    vectors              whole on every device

A matrix is gathered where a layer begins and let go where it ends, forward and backward
alike. On one device, and where there is only `data`, nothing here does anything.

Axes of a matrix: [in, out], [V, D]; layers and heads are stacked along one before them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from shared.huggingface.leaves import Leaf

AXES = DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
ROWS = (DATA, FSDP)  # of a batch
# By a matrix, its axis that `tensor` computes with: the vocabulary, the inner width,
# the attention heads. What is not named is computed by all of `tensor` alike.
SPLIT = {"embed": 0, "unembed": 0, "gate": 1, "up": 1, "down": 0, "out": 0}


def row_parts(mesh: Mesh) -> int:
    """In how many parts the rows of a batch are split."""
    return mesh.shape[DATA] * mesh.shape[FSDP]


def size_of(mesh: Mesh | None, axis: str) -> int:
    """Devices along an axis of the mesh; 1 without one."""
    return 1 if mesh is None else mesh.shape[axis]


def shares_matrices(mesh: Mesh | None) -> bool:
    """Whether a device has pieces of matrices, not all of them."""
    return mesh is not None and mesh.shape[FSDP] * mesh.shape[TENSOR] > 1


def kept(mesh: Mesh, tree: Any) -> Any:
    """The sharding of every array of a state, or of a part of one.

    Args:
      tree: arrays, or their shapes, under the names of `TrainState`.
    """

    def one(path: Any, x: Any) -> NamedSharding:
        names = names_of(path)
        stacked = "heads" in names or "blocks" in names
        return NamedSharding(mesh, kept_spec(names, x.shape, mesh, stack=int(stacked)))

    return jax.tree_util.tree_map_with_path(one, tree)


def kept_of(mesh: Mesh, make: Callable[[], Any]) -> Any:
    """The sharding of what `make` returns, which is not computed for it."""
    if not shares_matrices(mesh):
        return NamedSharding(mesh, PartitionSpec())
    return kept(mesh, jax.eval_shape(make))


def read_leaves(tree: Any, mesh: Mesh) -> Any:
    """Opened leaves (`shared/huggingface/leaves.py`), read where they are kept.

    Of each array a device gets what it keeps; this process has that part while it is
    on its way.
    """

    def one(leaf: Leaf, sharding: NamedSharding) -> jax.Array:
        parts: dict[Any, Any] = {}  # what `data` repeats is read once

        def read(index: tuple[slice, ...]) -> Any:
            key = tuple((at.start, at.stop) for at in index)
            if key not in parts:
                parts[key] = leaf.read(index)
            return parts[key]

        return jax.make_array_from_callback(leaf.shape, sharding, read)

    return jax.tree.map(one, tree, kept(mesh, tree))


def names_of(path: Any) -> list[str]:
    """The keys of nested dicts on the way to a leaf, as in `trunk`, `embed`."""
    return [x.key for x in path if isinstance(x, jax.tree_util.DictKey)]


def kept_spec(
    names: Sequence[str], shape: Sequence[int], mesh: Mesh, *, stack: int = 0
) -> PartitionSpec:
    """How one array is kept: each axis of the mesh along the longest that it divides.

    `tensor` takes the axis that it computes with, if it divides that; `fsdp` rather one
    that `tensor` has not taken.

    Args:
      stack: axes before those of the matrix, along which layers are stacked.
    """
    sizes = list(shape[stack:])
    if len(sizes) < 2:
        return PartitionSpec()
    placed: list[tuple[str, ...]] = [() for _ in sizes]
    for axis in (TENSOR, FSDP):
        count, wanted = mesh.shape[axis], _split_axis(names) if axis == TENSOR else None
        fits = [i for i, size in enumerate(sizes) if size % count == 0]
        if count == 1 or not fits:
            continue
        best = max(fits, key=lambda i: (i == wanted, not placed[i], sizes[i]))
        placed[best] += (axis,)
        sizes[best] //= count
    return PartitionSpec(*[None] * stack, *(x or None for x in placed))


def _split_axis(names: Sequence[str]) -> int | None:
    """The axis of a matrix that `tensor` computes with, if there is one."""
    own = [name for name in names if name != "kernel"]
    return SPLIT.get(own[-1]) if own else None


def in_use(tree: Any, mesh: Mesh | None, dtype: Any = None) -> Any:
    """The matrices of one layer or head, gathered over `fsdp`; its vectors as they are.

    Their gradients are summed into the pieces that are kept.

    Args:
      tree: without the axis along which layers or heads are stacked.
      dtype: of the products, in which kernels travel.
    """
    if mesh is None or not shares_matrices(mesh):
        return tree

    def one(path: Any, x: jax.Array) -> jax.Array:
        names = names_of(path)
        if x.ndim < 2:
            return x
        if dtype is not None and names[-1] == "kernel":
            x = x.astype(dtype)
        return _gathered(tuple(names), mesh, x)

    return jax.tree_util.tree_map_with_path(one, tree)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gathered(names: tuple[str, ...], mesh: Mesh, x: jax.Array) -> jax.Array:
    return _constrained(x, mesh, _used_spec(names, x, mesh))


def _gathered_forward(names, mesh, x):
    return _gathered(names, mesh, x), None


def _gathered_backward(names, mesh, kept_nothing, gradient):
    del kept_nothing
    # Each device has a part of the sum, from its rows: that is added up as it is, and
    # then cut. Cut first, rows would be exchanged in place of sums.
    summed = _constrained(gradient, mesh, _used_spec(names, gradient, mesh))
    kept = kept_spec(names, gradient.shape, mesh)
    return (_constrained(summed, mesh, kept),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _used_spec(names: Sequence[str], x: jax.Array, mesh: Mesh) -> PartitionSpec:
    kept = kept_spec(names, x.shape, mesh)
    used: list[str | None] = [None] * x.ndim
    if (axis := _split_axis(names)) is not None and TENSOR in _names(kept[axis]):
        used[axis] = TENSOR
    elif "embed" in names:
        # Looked up, not multiplied: D will do, where `tensor` does not divide V.
        used = [TENSOR if TENSOR in _names(at) else None for at in kept]
    return PartitionSpec(*used)


def by_rows(x: jax.Array, mesh: Mesh | None, *, split: int | None = None) -> jax.Array:
    """Activations `[B, L, ...]`: rows over data x fsdp, one axis over `tensor`.

    Args:
      split: that axis, if there is one and `tensor` divides it.
    """
    if mesh is None or not shares_matrices(mesh):
        return x
    spec: list[Any] = [ROWS, *[None] * (x.ndim - 1)]
    if split is not None and x.shape[split] % mesh.shape[TENSOR] == 0:
        spec[split] = TENSOR
    return _constrained(x, mesh, PartitionSpec(*spec))


def _names(of_axis: Any) -> tuple[str, ...]:
    """The axes of the mesh along one axis of an array."""
    return of_axis if isinstance(of_axis, tuple) else (of_axis,)


def _constrained(x: jax.Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def all_but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """What a backward pass may keep of a layer: its matrices are gathered again."""
    return primitive.name != "sharding_constraint"
