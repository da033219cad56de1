"""The kept rows of one unembedding, block by block: logits, nll and gradient.

A loop with as many turns as the kept rows need walks over whole blocks; what is left
is one block of the smallest size that holds it. Only one block of logits is alive.

Axes: R rows (any set of positions), D width, V vocabulary, N rows of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

LARGEST_BLOCK = 1024  # rows; the more, the fewer passes over the gradient of W
SMALLEST_BLOCK = 64  # below it products slow down more than rows are saved
SIZES = 4  # of the last block, at most; each is compiled
LEAST_BYTES = 4 * 1024**2  # of logits, by which two of these sizes differ
LOGITS_BYTES = 256 * 1024**2  # of one block in float32

Of = tuple[tuple[jax.Array, ...], Any]  # arrays of rows `[R, ...]`, and sums


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Scored:
    """The softmax of rows that were scored, for the pass that makes their gradient.

    Attributes:
      share_NV: `exp(logit - largest logit)` of the scored rows, in order, in one block.
      slot_R: where in `share_NV` a scored row is.
      total_R1: the sum of its shares.
      nll_R: its nll.
    """

    share_NV: jax.Array
    slot_R: jax.Array
    total_R1: jax.Array
    nll_R: jax.Array


def block_sizes(rows: int, vocab_size: int) -> tuple[int, int]:
    """Rows of a whole block, and the step in which the last one grows."""
    most = max(1, min(LARGEST_BLOCK, LOGITS_BYTES // (4 * vocab_size), rows))
    sizes = min(SIZES, most // SMALLEST_BLOCK, 4 * vocab_size * most // LEAST_BYTES)
    step = -(-most // max(1, sizes))
    return max(1, sizes) * step, step


def fits_one_block(rows: int, vocab_size: int) -> bool:
    """Whether the logits of all rows may be kept until their gradient is made."""
    return rows <= block_sizes(rows, vocab_size)[0]


def walk(
    kept_R: jax.Array, vocab_size: int, turn: Callable[[jax.Array], Of], empty: Of
) -> Of:
    """Takes `turn(index_N)` over the kept rows; an index of R is no row.

    Args:
      turn: arrays of the rows of a block `[N, ...]`, and what is summed over blocks.
      empty: what no row at all gives; its types are those of the result.

    Returns:
      Arrays of all rows, as `empty` has them where a row is not kept; and the sums.
    """
    R = kept_R.shape[0]
    if R == 0:
        return empty
    whole, step = block_sizes(R, vocab_size)
    index = jnp.nonzero(kept_R, size=R + whole, fill_value=R)[0]
    count = jnp.sum(kept_R)
    turns = jnp.maximum(count - 1, 0) // whole  # of whole blocks, before the last one

    def take(start: Any, size: int, of_rows: Any) -> Of:
        index_N = jax.lax.dynamic_slice(index, (start,), (size,))
        of_block, sums = turn(index_N)
        pairs = zip(of_rows, of_block, strict=True)
        placed = (x.at[index_N].set(y.astype(x.dtype), mode="drop") for x, y in pairs)
        return tuple(placed), sums

    # The last block goes first: its sums need no zeros to be added to.
    last = [lambda: empty]
    for size in range(step, whole + 1, step):
        last.append(lambda size=size: take(turns * whole, size, empty[0]))
    carry = jax.lax.switch((count - turns * whole + step - 1) // step, last)
    if whole >= R:
        return carry

    def one(number: Any, carry: Of) -> Of:
        of_rows, sums = take(number * whole, whole, carry[0])
        return of_rows, jax.tree.map(jnp.add, carry[1], sums)

    return jax.lax.fori_loop(0, turns, one, carry)


def nll(
    unembed_VD: jax.Array, states_RD: jax.Array, targets_R: jax.Array, kept_R: jax.Array
) -> Of:
    """`((nll_R,), None)`: one product a row."""
    matrix_VD = unembed_VD.astype(states_RD.dtype)

    def turn(index_N: jax.Array) -> Of:
        _, nll_N, _, _ = _softmax(states_RD, targets_R, matrix_VD, index_N)
        return (nll_N,), None

    empty = (jnp.zeros(targets_R.shape, _wide(states_RD)),)
    return walk(kept_R, unembed_VD.shape[0], turn, (empty, None))


def scored_nll(
    unembed_VD: jax.Array, states_RD: jax.Array, targets_R: jax.Array, kept_R: jax.Array
) -> Scored:
    """As `nll`, of rows that fit one block, with their softmax."""
    matrix_VD = unembed_VD.astype(states_RD.dtype)
    R, V = states_RD.shape[0], unembed_VD.shape[0]
    whole, _ = block_sizes(R, V)
    wide = _wide(states_RD)

    def turn(index_N: jax.Array) -> Of:
        _, nll_N, share_NV, total_N1 = _softmax(
            states_RD, targets_R, matrix_VD, index_N
        )
        more = whole - index_N.shape[0]
        return (nll_N, total_N1), jnp.pad(share_NV, ((0, more), (0, 0)))

    empty = (jnp.zeros(R, wide), jnp.zeros((R, 1), wide)), jnp.zeros((whole, V), wide)
    (nll_R, total_R1), share_NV = walk(kept_R, V, turn, empty)
    return Scored(share_NV, jnp.cumsum(kept_R) - 1, total_R1, nll_R)


def nll_and_gradient(
    unembed_VD: jax.Array,
    states_RD: jax.Array,
    targets_R: jax.Array,
    kept_R: jax.Array,
    factor_R: jax.Array,
    scored: Scored | None = None,
) -> Of:
    """`((nll_R, d_RD), d_VD)`: the gradient of `sum(factor * nll)`, in three products.

    d / d logits = factor * (softmax - one at the target)

    Args:
      scored: the softmax of every kept row, which spares the first product.
    """
    matrix_VD = unembed_VD.astype(states_RD.dtype)
    wide = _wide(states_RD)

    def turn(index_N: jax.Array) -> Of:
        if scored is None:
            states_ND, nll_N, share_NV, total_N1 = _softmax(
                states_RD, targets_R, matrix_VD, index_N
            )
        else:
            states_ND, nll_N = (_rows(x, index_N) for x in (states_RD, scored.nll_R))
            share_NV = _rows(scored.share_NV, _rows(scored.slot_R, index_N))
            total_N1 = scored.total_R1.at[index_N].get(mode="fill", fill_value=1)
        factor_N1 = _rows(factor_R, index_N)[:, None]
        target_N1 = _rows(targets_R, index_N)[:, None]
        hit_NV = jnp.arange(matrix_VD.shape[0])[None, :] == target_N1
        d_NV = share_NV * (factor_N1 / total_N1) - jnp.where(hit_NV, factor_N1, 0)
        d_NV = d_NV.astype(states_RD.dtype)
        d_ND = jnp.einsum("nv,vd->nd", d_NV, matrix_VD, preferred_element_type=wide)
        d_VD = jnp.einsum("nv,nd->vd", d_NV, states_ND, preferred_element_type=wide)
        return (nll_N, d_ND), d_VD

    empty = (
        (jnp.zeros(targets_R.shape, wide), jnp.zeros_like(states_RD)),
        jnp.zeros(unembed_VD.shape, wide),
    )
    of_rows, d_VD = walk(kept_R, unembed_VD.shape[0], turn, empty)
    return of_rows, d_VD.astype(unembed_VD.dtype)


def _softmax(
    states_RD: jax.Array, targets_R: jax.Array, matrix_VD: jax.Array, index_N: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """States and nll of a block; its `exp(logit - top)`, and their sums."""
    states_ND, target_N = _rows(states_RD, index_N), _rows(targets_R, index_N)
    logits_NV = jnp.einsum(
        "nd,vd->nv", states_ND, matrix_VD, preferred_element_type=_wide(states_RD)
    )
    # XLA would else fuse the product into each of its readers, and compute it twice.
    logits_NV = jax.lax.optimization_barrier(logits_NV)
    top_N1 = jnp.max(logits_NV, axis=1, keepdims=True)
    # Without it XLA's CPU backend takes exponentials and sum in one slow loop.
    share_NV = jax.lax.optimization_barrier(jnp.exp(logits_NV - top_N1))
    total_N1 = jnp.sum(share_NV, axis=1, keepdims=True)
    chosen_N1 = jnp.take_along_axis(logits_NV, target_N[:, None], axis=1)
    # The difference is exact where the nll is small, however far from 0 logits are.
    nll_N1 = jnp.log(total_N1) + (top_N1 - chosen_N1)
    return states_ND, nll_N1[:, 0], share_NV, total_N1


def _wide(states_RD: jax.Array) -> Any:
    return jnp.promote_types(states_RD.dtype, jnp.float32)


def _rows(x_R: jax.Array, index_N: jax.Array) -> jax.Array:
    return x_R.at[index_N].get(mode="fill", fill_value=0)
