"""Unembedding and nll of the rows that weigh something, with the gradient at once.

Weights are known before the heads run. So a block's logits are turned into its gradient
in the same pass and never kept: three matrix products a row. Rows of weight 0 are left
out before the first product: the others are gathered to the front and walked over block
by block (`row_blocks.py`). On many devices each walks over its own rows, and the
gradients of W are summed once.

Axes: B rows, L positions, K heads, V vocabulary, D width, R = B L rows of a head.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from wmtp_jax import row_blocks
from wmtp_jax.row_blocks import Scored

Heads = tuple[jax.Array, jax.Array, jax.Array | None]  # states_KRD, shared_VD, own_KVD


def nll_heads(
    states_KBLD: jax.Array,
    targets_BLK: jax.Array,
    kept_BLK: jax.Array,
    shared_VD: jax.Array,
    own_KVD: jax.Array | None,
    *,
    mesh: Mesh | None = None,
) -> jax.Array:
    """`nll_BLK` in nats where `kept_BLK`, 0 elsewhere, without gradient.

        nll[r] = logsumexp_v(states[r] @ unembed[v]) - states[r] @ unembed[targets[r]]

    Products are summed in float32, also those of bfloat16 states.

    Args:
      shared_VD: unembedding of head 0, and of all heads without one of their own.
      own_KVD: those of heads 1, 2, ... of type `linear`.
      mesh: the devices that hold the rows of the batch, if there are many.

    Raises:
      TypeError: if it is differentiated.
    """
    heads = (_rows(_without_gradient(states_KBLD)), shared_VD, own_KVD)
    rows = tuple(_rows_of_heads(x) for x in (targets_BLK, kept_BLK))
    (nll_KR,), _, _ = _run(row_blocks.nll, mesh, heads, rows)
    return _positions(nll_KR, targets_BLK.shape)


@jax.custom_jvp
def _without_gradient(states: jax.Array) -> jax.Array:
    return states


@_without_gradient.defjvp
def _refuse_gradient(primals, tangents):
    raise TypeError(
        "nll_heads must not be differentiated: weighted_nll_heads has the gradient"
    )


def score_rows(
    states_BLD: jax.Array,
    targets_BL: jax.Array,
    kept_BL: jax.Array,
    unembed_VD: jax.Array,
    *,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, Scored | None]:
    """`nll_BL` of one head before its weights are known, and its softmax if it fits.

    It fits where all rows of a device make one block; then `weighted_nll_heads` needs
    no second product for them. Nothing here can be differentiated.
    """
    states, unembed_VD = jax.lax.stop_gradient((states_BLD[None], unembed_VD))
    heads = (_rows(states), unembed_VD, None)
    rows = tuple(_rows_of_heads(x[..., None]) for x in (targets_BL, kept_BL))
    devices = 1 if mesh is None else mesh.size
    if not row_blocks.fits_one_block(kept_BL.size // devices, unembed_VD.shape[0]):
        (nll_KR,), _, _ = _run(row_blocks.nll, mesh, heads, rows)
        return nll_KR.reshape(kept_BL.shape), None
    scored = _run_scored(mesh, heads, rows)
    return scored.nll_R.reshape(kept_BL.shape), scored


def weighted_nll_heads(
    states_KBLD: jax.Array,
    targets_BLK: jax.Array,
    kept_BLK: jax.Array,
    factor_BLK: jax.Array,
    shared_VD: jax.Array,
    own_KVD: jax.Array | None,
    *,
    scored: Scored | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`(sum(factor * nll), nll_BLK)` over the kept rows; the others cost nothing.

    Only the sum has a gradient, with respect to states and unembeddings: factors are
    constants, and `nll_BLK` is there to be looked at. Arguments as in `nll_heads`.

    Args:
      scored: what `score_rows` kept of head 0, if its kept rows are among those.
    """
    heads = (_rows(states_KBLD), shared_VD, own_KVD)
    rows = tuple(_rows_of_heads(x) for x in (targets_BLK, kept_BLK, factor_BLK))
    total, nll_KR = _weighted(mesh, heads, rows, scored)
    return total, jax.lax.stop_gradient(_positions(nll_KR, targets_BLK.shape))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted(
    mesh: Mesh | None,
    heads: Heads,
    rows: tuple[jax.Array, ...],
    scored: Scored | None,
) -> tuple[jax.Array, jax.Array]:
    del scored  # not worth a second form for a sum without a gradient
    *chosen, factor_KR = rows
    (nll_KR,), _, _ = _run(row_blocks.nll, mesh, heads, tuple(chosen))
    return jnp.sum(factor_KR * nll_KR), nll_KR


def _forward(mesh, heads, rows, scored):
    (nll_KR, d_states), d_shared, d_own = _run(
        row_blocks.nll_and_gradient, mesh, heads, rows, scored
    )
    return (jnp.sum(rows[-1] * nll_KR), nll_KR), (d_states, d_shared, d_own)


def _backward(mesh, gradients, cotangents):
    del mesh
    scale, _ = cotangents
    scaled = jax.tree.map(lambda g: scale.astype(g.dtype) * g, gradients)
    return scaled, None, None


_weighted.defvjp(_forward, _backward)


# All heads, on all devices.


def _run(
    core: Callable[..., Any],
    mesh: Mesh | None,
    heads: Heads,
    rows: tuple[jax.Array, ...],
    scored: Scored | None = None,
) -> tuple[tuple[jax.Array, ...], Any, Any]:
    """`core` of every head: arrays of rows `[K, R, ...]`, and sums for each W."""
    if mesh is None or mesh.size == 1:
        return _of_heads(core, heads, rows, scored)
    whole, split = PartitionSpec(), PartitionSpec(None, "data")

    def here(heads, rows, scored):
        found, of_shared, of_own = _of_heads(core, heads, rows, scored)
        return found, *jax.lax.psum((of_shared, of_own), mesh.axis_names)

    return jax.shard_map(
        here,
        mesh=mesh,
        in_specs=((split, whole, whole), split, PartitionSpec("data")),
        out_specs=(split, whole, whole),
        check_vma=False,
    )(heads, rows, scored)


def _run_scored(mesh: Mesh | None, heads: Heads, rows: tuple[jax.Array, ...]) -> Scored:
    """nll and softmax of one head; on many devices each keeps those of its rows."""

    def here(heads, rows):
        states_KRD, unembed_VD, _ = heads
        arguments = (x[0] for x in (states_KRD, *rows))
        return row_blocks.scored_nll(unembed_VD, *arguments)

    if mesh is None or mesh.size == 1:
        return here(heads, rows)
    split = PartitionSpec(None, "data")
    return jax.shard_map(
        here,
        mesh=mesh,
        in_specs=((split, PartitionSpec(), PartitionSpec()), split),
        out_specs=PartitionSpec("data"),
        check_vma=False,
    )(heads, rows)


def _of_heads(
    core: Callable[..., Any],
    heads: Heads,
    rows: tuple[jax.Array, ...],
    scored: Scored | None,
) -> tuple[tuple[jax.Array, ...], Any, Any]:
    """Heads that share an unembedding are one set of rows; others run one by one."""
    states_KRD, shared_VD, own_KVD = heads
    kept = () if scored is None else (scored,)
    arguments = (states_KRD, *rows)
    if own_KVD is None and (scored is None or len(states_KRD) == 1):
        return *_as_one(core, shared_VD, arguments, *kept), None
    first, of_shared = core(shared_VD, *(x[0] for x in arguments), *kept)
    rest = tuple(x[1:] for x in arguments)
    if own_KVD is None:
        others, more = _as_one(core, shared_VD, rest)
        of_shared, of_own = jax.tree.map(jnp.add, of_shared, more), None
    else:
        others, of_own = jax.lax.map(lambda head: core(*head), (own_KVD, *rest))
    both = zip(first, others, strict=True)
    found = tuple(jnp.concatenate([x[None], more]) for x, more in both)
    return found, of_shared, of_own


def _as_one(
    core: Callable[..., Any],
    unembed_VD: jax.Array,
    arguments: tuple[jax.Array, ...],
    *scored: Scored,
) -> tuple[tuple[jax.Array, ...], Any]:
    """`core` of several heads `[K, R, ...]` with one unembedding."""
    K, R = arguments[0].shape[:2]
    flat = (x.reshape(K * R, *x.shape[2:]) for x in arguments)
    found, of_shared = core(unembed_VD, *flat, *scored)
    return tuple(x.reshape(K, R, *x.shape[1:]) for x in found), of_shared


def _rows(states_KBLD: jax.Array) -> jax.Array:
    K, B, L, D = states_KBLD.shape
    return states_KBLD.reshape(K, B * L, D)


def _rows_of_heads(x_BLK: jax.Array) -> jax.Array:
    B, L, K = x_BLK.shape
    return jnp.moveaxis(x_BLK, 2, 0).reshape(K, B * L)


def _positions(x_KR: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.moveaxis(x_KR.reshape(x_KR.shape[0], *shape[:2]), 0, 2)
