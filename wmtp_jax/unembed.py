"""Unembedding and nll of the rows that weigh something, with the gradient at once.

Weights are known before the heads run. So a block's logits are turned into its gradient
in the same pass and never kept: three matrix products a row, and one `[N, V]` of logits
alive. Rows of weight 0 are left out before the first product: the others are gathered
to the front, and a loop with as many turns as they need walks over them. On many
devices each walks over its own rows, and the gradients of W are summed once.

Axes: R rows (any set of positions), D width, V vocabulary, K heads, N rows of a block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

LARGEST_BLOCK = 1024  # rows; the more, the fewer passes over the gradient of W
SMALLEST_BLOCK = 64  # below it products slow down more than rows are saved
LOGITS_BYTES = 256 * 1024**2  # of one block in float32

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
    """`nll_BLK` in nats where `kept_BLK`, 0 elsewhere; it cannot be differentiated.

        nll[r] = logsumexp_v(states[r] @ unembed[v]) - states[r] @ unembed[targets[r]]

    Products are summed in float32, also those of bfloat16 states.

    Args:
      shared_VD: unembedding of head 0, and of all heads without one of their own.
      own_KVD: those of heads 1, 2, ... of type `linear`.
      mesh: the devices that hold the rows of the batch, if there are many.
    """
    heads = (_rows(states_KBLD), shared_VD, own_KVD)
    rows = tuple(_rows_of_heads(x) for x in (targets_BLK, kept_BLK))
    (nll_KR,), _, _ = _run(_nll, mesh, heads, rows)
    return _positions(nll_KR, targets_BLK.shape)


def weighted_nll_heads(
    states_KBLD: jax.Array,
    targets_BLK: jax.Array,
    kept_BLK: jax.Array,
    factor_BLK: jax.Array,
    shared_VD: jax.Array,
    own_KVD: jax.Array | None,
    *,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`(sum(factor * nll), nll_BLK)` over the kept rows; the others cost nothing.

    Only the sum has a gradient, with respect to states and unembeddings: factors are
    constants, and `nll_BLK` is there to be looked at. Arguments as in `nll_heads`.
    """
    heads = (_rows(states_KBLD), shared_VD, own_KVD)
    rows = tuple(_rows_of_heads(x) for x in (targets_BLK, kept_BLK, factor_BLK))
    total, nll_KR = _weighted(mesh, heads, rows)
    return total, jax.lax.stop_gradient(_positions(nll_KR, targets_BLK.shape))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted(
    mesh: Mesh | None, heads: Heads, rows: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    *chosen, factor_KR = rows
    (nll_KR,), _, _ = _run(_nll, mesh, heads, tuple(chosen))
    return jnp.sum(factor_KR * nll_KR), nll_KR


def _forward(mesh, heads, rows):
    (nll_KR, d_states), d_shared, d_own = _run(_nll_and_gradient, mesh, heads, rows)
    return (jnp.sum(rows[-1] * nll_KR), nll_KR), (d_states, d_shared, d_own)


def _backward(mesh, gradients, cotangents):
    del mesh
    scale, _ = cotangents
    return jax.tree.map(lambda g: scale.astype(g.dtype) * g, gradients), None


_weighted.defvjp(_forward, _backward)


# All heads, on all devices.


def _run(
    core: Callable[..., Any],
    mesh: Mesh | None,
    heads: Heads,
    rows: tuple[jax.Array, ...],
) -> tuple[tuple[jax.Array, ...], Any, Any]:
    """`core` of every head: arrays of rows `[K, R, ...]`, and sums for each W."""
    if mesh is None or mesh.size == 1:
        return _of_heads(core, heads, rows)
    whole, split = PartitionSpec(), PartitionSpec(None, "data")

    def here(heads, rows):
        found, of_shared, of_own = _of_heads(core, heads, rows)
        return found, *jax.lax.psum((of_shared, of_own), mesh.axis_names)

    return jax.shard_map(
        here,
        mesh=mesh,
        in_specs=((split, whole, whole), split),
        out_specs=(split, whole, whole),
        check_vma=False,
    )(heads, rows)


def _of_heads(
    core: Callable[..., Any], heads: Heads, rows: tuple[jax.Array, ...]
) -> tuple[tuple[jax.Array, ...], Any, Any]:
    """Heads that share an unembedding are one set of rows; others run one by one."""
    states_KRD, shared_VD, own_KVD = heads
    K, R, _ = states_KRD.shape
    arguments = (states_KRD, *rows)
    if own_KVD is None:
        flat = (x.reshape(K * R, *x.shape[2:]) for x in arguments)
        found, of_shared = core(shared_VD, *flat)
        return tuple(x.reshape(K, R, *x.shape[1:]) for x in found), of_shared, None
    first, of_shared = core(shared_VD, *(x[0] for x in arguments))
    others, of_own = jax.lax.map(
        lambda head: core(*head), (own_KVD, *(x[1:] for x in arguments))
    )
    both = zip(first, others, strict=True)
    found = tuple(jnp.concatenate([x[None], more]) for x, more in both)
    return found, of_shared, of_own


def _rows(states_KBLD: jax.Array) -> jax.Array:
    K, B, L, D = states_KBLD.shape
    return states_KBLD.reshape(K, B * L, D)


def _rows_of_heads(x_BLK: jax.Array) -> jax.Array:
    B, L, K = x_BLK.shape
    return jnp.moveaxis(x_BLK, 2, 0).reshape(K, B * L)


def _positions(x_KR: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.moveaxis(x_KR.reshape(x_KR.shape[0], *shape[:2]), 0, 2)


# The rows of one unembedding.


def block_sizes(rows: int, vocab_size: int) -> tuple[int, int]:
    """Rows of a block: of the first ones, and of the last ones, which waste less."""
    most = min(LARGEST_BLOCK, LOGITS_BYTES // (4 * vocab_size), rows)
    large = 1 << max(most, 1).bit_length() - 1
    return large, min(large, max(SMALLEST_BLOCK, large // 4))


def _walk(
    kept_R: jax.Array,
    vocab_size: int,
    turn: Callable[[jax.Array, Any], Any],
    carry: Any,
) -> Any:
    """Takes `turn(index_N, carry)` over the kept rows; an index of R is no row."""
    R = kept_R.shape[0]
    if R == 0:
        return carry
    large, small = block_sizes(R, vocab_size)
    index = jnp.nonzero(kept_R, size=R + large, fill_value=R)[0]
    count = jnp.sum(kept_R)

    def walk(size: int, start: Any, turns: Any, carry: Any) -> Any:
        def one(number, carry):
            at = start + number * size
            return turn(jax.lax.dynamic_slice(index, (at,), (size,)), carry)

        return jax.lax.fori_loop(0, turns, one, carry)

    turns = (count + small - 1) // large  # what four small ones would do, a large does
    carry = walk(large, 0, turns, carry)
    if large == small:
        return carry
    rest = jnp.maximum(count - turns * large, 0)
    return walk(small, turns * large, (rest + small - 1) // small, carry)


def _block(
    index_N: jax.Array, states_RD: jax.Array, targets_R: jax.Array, matrix_VD: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, jax.Array]]:
    """States, target hits and nll of a block, and what its softmax is made of."""
    states_ND = states_RD.at[index_N].get(mode="fill", fill_value=0)
    target_N = targets_R.at[index_N].get(mode="fill", fill_value=0)
    wide = jnp.promote_types(states_RD.dtype, jnp.float32)
    logits_NV = jnp.einsum(
        "nd,vd->nv", states_ND, matrix_VD, preferred_element_type=wide
    )
    # XLA would else fuse the product into each of its readers, and compute it twice.
    logits_NV = jax.lax.optimization_barrier(logits_NV)
    top_N1 = jnp.max(logits_NV, axis=1, keepdims=True)
    share_NV = jnp.exp(logits_NV - top_N1)
    total_N1 = jnp.sum(share_NV, axis=1, keepdims=True)
    # A compare and sum, in one pass with the others, instead of a gather.
    hit_NV = jnp.arange(matrix_VD.shape[0])[None, :] == target_N[:, None]
    chosen_N = jnp.sum(jnp.where(hit_NV, logits_NV, 0), axis=1)
    nll_N = (top_N1 + jnp.log(total_N1))[:, 0] - chosen_N
    return states_ND, hit_NV, nll_N, (share_NV, total_N1)


def _nll(
    unembed_VD: jax.Array, states_RD: jax.Array, targets_R: jax.Array, kept_R: jax.Array
) -> tuple[tuple[jax.Array], None]:
    """`((nll_R,), None)`: one product a row."""
    matrix_VD = unembed_VD.astype(states_RD.dtype)

    def turn(index_N, nll_R):
        _, _, nll_N, _ = _block(index_N, states_RD, targets_R, matrix_VD)
        return nll_R.at[index_N].set(nll_N, mode="drop")

    wide = jnp.promote_types(states_RD.dtype, jnp.float32)
    nll_R = jnp.zeros(targets_R.shape, wide)
    return (_walk(kept_R, unembed_VD.shape[0], turn, nll_R),), None


def _nll_and_gradient(
    unembed_VD: jax.Array,
    states_RD: jax.Array,
    targets_R: jax.Array,
    kept_R: jax.Array,
    factor_R: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """`((nll_R, d_RD), d_VD)`: the gradient of `sum(factor * nll)`, in three products.

    d / d logits = factor * (softmax - one at the target)
    """
    matrix_VD = unembed_VD.astype(states_RD.dtype)
    wide = jnp.promote_types(states_RD.dtype, jnp.float32)

    def turn(index_N, carry):
        nll_R, d_RD, d_VD = carry
        states_ND, hit_NV, nll_N, (share_NV, total_N1) = _block(
            index_N, states_RD, targets_R, matrix_VD
        )
        factor_N1 = factor_R.at[index_N].get(mode="fill", fill_value=0)[:, None]
        d_NV = share_NV * (factor_N1 / total_N1) - jnp.where(hit_NV, factor_N1, 0)
        d_NV = d_NV.astype(states_RD.dtype)
        d_ND = jnp.einsum("nv,vd->nd", d_NV, matrix_VD, preferred_element_type=wide)
        more_VD = jnp.einsum("nv,nd->vd", d_NV, states_ND, preferred_element_type=wide)
        return (
            nll_R.at[index_N].set(nll_N, mode="drop"),
            d_RD.at[index_N].set(d_ND.astype(d_RD.dtype), mode="drop"),
            d_VD + more_VD,
        )

    carry = (
        jnp.zeros(targets_R.shape, wide),
        jnp.zeros_like(states_RD),
        jnp.zeros(unembed_VD.shape, wide),
    )
    nll_R, d_RD, d_VD = _walk(kept_R, unembed_VD.shape[0], turn, carry)
    return (nll_R, d_RD), d_VD.astype(unembed_VD.dtype)
