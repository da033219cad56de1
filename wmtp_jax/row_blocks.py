"""The kept rows of one unembedding, block by block: logits, nll and gradient.

A loop with as many turns as the kept rows need walks over whole blocks; what is left
is one block of the smallest size that holds it. Only one block of logits is alive.

Devices may share each row, with a part of the vocabulary each (`vocabulary.py`).

Axes: R rows (positions of one head, or of several), D width, V vocabulary (or its part
here), N rows of a block.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from wmtp_jax import vocabulary
from wmtp_jax.vocabulary import Shared

LARGEST_BLOCK = 1024  # rows; the more, the fewer passes over the gradient of W
SMALLEST_BLOCK = 64  # below it products slow down more than rows are saved
SMALL_WIDTH = 256  # of a model; its blocks may have more rows than it is wide
SIZES = 4  # of the last block, at most; each is compiled
LEAST_BYTES = 4 * 1024**2  # of logits, by which two of these sizes differ
LOGITS_BYTES = 256 * 1024**2  # of one block in float32

Found = tuple[jax.Array, ...]  # arrays of rows `[R, ...]`


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """The rows of all heads, one head after the other.

    Attributes:
      targets_R: in [0, V).
      factor_R: of the nll in the sum whose gradient is asked for, if one is.
      share_R: of its gradient that W gets; all of it without.
      shared: by which devices, if not one has all logits of a row. Then gradients of
        states are of its part, and are to be added up.
    """

    states_RD: jax.Array
    targets_R: jax.Array
    kept_R: jax.Array
    factor_R: jax.Array | None = None
    share_R: jax.Array | None = None
    shared: Shared | None = field(default=None, metadata={"static": True})

    @property
    def wide(self) -> Any:
        """The type in which products are summed."""
        return jnp.promote_types(self.states_RD.dtype, jnp.float32)


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


def block_sizes(rows: int, vocab_size: int, width: int) -> tuple[int, int]:
    """Rows of a whole block, and the step in which the last one grows.

    Where one block does not hold all rows, its logits are no larger than the gradient
    of W, which is held beside them.
    """
    most = min(LARGEST_BLOCK, LOGITS_BYTES // (4 * vocab_size), rows)
    if rows > most:
        most = min(most, max(width, SMALL_WIDTH))
    most = max(1, most)
    sizes = min(SIZES, most // SMALLEST_BLOCK, 4 * vocab_size * most // LEAST_BYTES)
    step = -(-most // max(1, sizes))
    return max(1, sizes) * step, step


def fits_one_block(rows: int, vocab_size: int, width: int) -> bool:
    """Whether the softmax of all rows may be kept until their gradient is made."""
    return rows <= block_sizes(rows, vocab_size, width)[0]


def walk(
    kept_R: jax.Array,
    first: Any,
    sizes: tuple[int, int],
    turn: Callable[[jax.Array], tuple[Found, Any]],
    found: Found,
    nothing: Any,
) -> tuple[Found, Any]:
    """Takes `turn(index_N)` over the kept rows; an index past all rows is no row.

    Args:
      kept_R: of a part of the rows, of which row `first` is the first.
      sizes: what `block_sizes` gives for them.
      turn: arrays of the rows of a block `[N, ...]`, and what is summed over blocks.
      found: arrays of all rows, in which those of the blocks are put.
      nothing: the sums of no block.

    Returns:
      `found` and the sums.
    """
    R, past = kept_R.shape[0], found[0].shape[0]
    if R == 0:
        return found, nothing
    whole, step = sizes
    index = jnp.nonzero(kept_R, size=R + whole, fill_value=past)[0]
    index = jnp.minimum(index + first, past)
    count = jnp.sum(kept_R)
    turns = jnp.maximum(count - 1, 0) // whole  # of whole blocks, before the last one

    def take(start: Any, size: int, found: Found) -> tuple[Found, Any]:
        index_N = jax.lax.dynamic_slice(index, (start,), (size,))
        of_rows, sums = turn(index_N)
        pairs = zip(found, of_rows, strict=True)
        placed = (x.at[index_N].set(y.astype(x.dtype), mode="drop") for x, y in pairs)
        return tuple(placed), sums

    # The last block goes first: its sums need no zeros to be added to.
    last = [lambda: (found, nothing)]
    for size in range(step, whole + 1, step):
        last.append(lambda size=size: take(turns * whole, size, found))
    carry = jax.lax.switch((count - turns * whole + step - 1) // step, last)
    if whole >= R:
        return carry

    def one(number: Any, carry: tuple[Found, Any]) -> tuple[Found, Any]:
        of_rows, sums = take(number * whole, whole, carry[0])
        return of_rows, jax.tree.map(jnp.add, carry[1], sums)

    return jax.lax.fori_loop(0, turns, one, carry)


def nll_start(rows: Rows) -> Found:
    """`(nll_R,)` before any row is found."""
    return (jnp.zeros(rows.targets_R.shape, rows.wide),)


def nll(
    unembed_VD: jax.Array, rows: Rows, found: Found, first: Any, size: int
) -> tuple[Found, None]:
    """`(nll_R,)` of `size` rows from `first` on: one product a row."""
    matrix_VD = unembed_VD.astype(rows.states_RD.dtype)

    def turn(index_N: jax.Array) -> tuple[Found, None]:
        _, nll_N, _, _ = _softmax(rows, matrix_VD, index_N)
        return (nll_N,), None

    kept_R = jax.lax.dynamic_slice(rows.kept_R, (first,), (size,))
    sizes = block_sizes(size, *matrix_VD.shape)
    return walk(kept_R, first, sizes, turn, found, None)


def scored_nll(unembed_VD: jax.Array, rows: Rows) -> Scored:
    """As `nll`, of rows that fit one block, with their softmax."""
    matrix_VD = unembed_VD.astype(rows.states_RD.dtype)
    R, V = rows.kept_R.shape[0], matrix_VD.shape[0]
    sizes = whole, _ = block_sizes(R, *matrix_VD.shape)

    def turn(index_N: jax.Array) -> tuple[Found, jax.Array]:
        _, nll_N, share_NV, total_N1 = _softmax(rows, matrix_VD, index_N)
        more = whole - index_N.shape[0]
        return (nll_N, total_N1), jnp.pad(share_NV, ((0, more), (0, 0)))

    empty = jnp.zeros(R, rows.wide), jnp.zeros((R, 1), rows.wide)
    nothing = jnp.zeros((whole, V), rows.wide)
    (nll_R, total_R1), share_NV = walk(rows.kept_R, 0, sizes, turn, empty, nothing)
    return Scored(share_NV, jnp.cumsum(rows.kept_R) - 1, total_R1, nll_R)


def gradient_start(rows: Rows) -> Found:
    """`(nll_R, d_RD)` before any row is found."""
    return *nll_start(rows), jnp.zeros_like(rows.states_RD)


def constant_nll(
    unembed_VD: jax.Array, rows: Rows, found: Found, first: Any, size: int
) -> tuple[Found, None]:
    """As `nll`, among rows that have a gradient: theirs stays 0."""
    of_rows, _ = nll(unembed_VD, rows, found[:1], first, size)
    return (*of_rows, *found[1:]), None


def best(
    unembed_VD: jax.Array, rows: Rows, found: Found, first: Any, size: int
) -> tuple[Found, None]:
    """`(token_R,)`: the argmax over the vocabulary, of equal logits the first."""
    matrix_VD = unembed_VD.astype(rows.states_RD.dtype)

    def turn(index_N: jax.Array) -> tuple[Found, None]:
        _, logits_NV = _logits(rows, matrix_VD, index_N)
        return (vocabulary.best(rows.shared, logits_NV),), None

    kept_R = jax.lax.dynamic_slice(rows.kept_R, (first,), (size,))
    sizes = block_sizes(size, *matrix_VD.shape)
    return walk(kept_R, first, sizes, turn, found, None)


def best_start(rows: Rows) -> Found:
    """`(token_R,)` before any row is found."""
    return (jnp.zeros(rows.targets_R.shape, jnp.int32),)


def nll_and_gradient(
    unembed_VD: jax.Array,
    rows: Rows,
    found: Found,
    first: Any,
    size: int,
    scored: Scored | None = None,
    *,
    of_states: bool = True,
    of_unembed: bool = True,
) -> tuple[Found, jax.Array | None]:
    """`((nll_R, d_RD), d_VD)`: the gradient of `sum(factor * nll)`, in three products.

    That of W is in the type in which products are summed.

    d / d logits = factor * (softmax - one at the target)

    Args:
      first, size: the rows that have this unembedding.
      scored: the softmax of every kept row, which spares the first product; then
        `first` is 0.
      of_states, of_unembed: whose gradient is wanted; each costs a product.
    """
    dtype, wide = rows.states_RD.dtype, rows.wide
    matrix_VD = unembed_VD.astype(dtype)

    def turn(index_N: jax.Array) -> tuple[Found, jax.Array]:
        if scored is None:
            states_ND, nll_N, share_NV, total_N1 = _softmax(rows, matrix_VD, index_N)
        else:
            states_ND, nll_N = (_at(x, index_N) for x in (rows.states_RD, scored.nll_R))
            none = scored.share_NV.shape[0]  # no slot: the share of no row is 0
            slot_N = scored.slot_R.at[index_N].get(mode="fill", fill_value=none)
            share_NV = _at(scored.share_NV, slot_N)
            total_N1 = scored.total_R1.at[index_N].get(mode="fill", fill_value=1)
        factor_N1 = _at(rows.factor_R, index_N)[:, None]
        target_N1 = _at(rows.targets_R, index_N)[:, None]
        hit_NV = vocabulary.tokens(rows.shared, matrix_VD.shape[0]) == target_N1
        d_NV = share_NV * (factor_N1 / total_N1) - jnp.where(hit_NV, factor_N1, 0)
        d_NV = d_NV.astype(dtype)
        products = {"preferred_element_type": wide}
        of_rows: Found = (nll_N,)
        if of_states:
            of_rows = nll_N, jnp.einsum("nv,vd->nd", d_NV, matrix_VD, **products)
        if not of_unembed:
            return of_rows, None
        if rows.share_R is not None:  # fewer numbers than a block of logits has
            states_ND *= _at(rows.share_R, index_N)[:, None]
        return of_rows, jnp.einsum("nv,nd->vd", d_NV, states_ND, **products)

    kept_R = jax.lax.dynamic_slice(rows.kept_R, (first,), (size,))
    nothing = jnp.zeros(unembed_VD.shape, wide) if of_unembed else None
    sizes = block_sizes(size, *matrix_VD.shape)
    rest = () if of_states else found[1:]
    found = found if of_states else found[:1]
    found, d_VD = walk(kept_R, first, sizes, turn, found, nothing)
    return (*found, *rest), d_VD


def _softmax(
    rows: Rows, matrix_VD: jax.Array, index_N: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """States and nll of a block; its `exp(logit - top)`, and their sums."""
    states_ND, logits_NV = _logits(rows, matrix_VD, index_N)
    target_N1 = _at(rows.targets_R, index_N)[:, None]
    chosen_N1 = vocabulary.chosen(rows.shared, logits_NV, target_N1)
    top_N1 = vocabulary.largest(rows.shared, logits_NV)
    # Exponentials wait for what else reads the logits, so that they take their place in
    # memory; and XLA's CPU backend must not make one slow loop of them and their sum.
    share_NV = jnp.exp(logits_NV - (top_N1 + 0 * chosen_N1))
    share_NV = jax.lax.optimization_barrier(share_NV)
    total_N1 = jnp.sum(share_NV, axis=1, keepdims=True)
    total_N1, chosen_N1 = vocabulary.summed(rows.shared, total_N1, chosen_N1)
    # The difference is exact where the nll is small, however far from 0 logits are.
    nll_N1 = jnp.log(total_N1) + (top_N1 - chosen_N1)
    return states_ND, nll_N1[:, 0], share_NV, total_N1


def _logits(
    rows: Rows, matrix_VD: jax.Array, index_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """States and logits of a block."""
    states_ND = _at(rows.states_RD, index_N)
    logits_NV = jnp.einsum(
        "nd,vd->nv", states_ND, matrix_VD, preferred_element_type=rows.wide
    )
    logits_NV = vocabulary.without_padding(rows.shared, logits_NV)
    # XLA would else fuse the product into each of its readers, and compute it twice.
    return states_ND, jax.lax.optimization_barrier(logits_NV)


def _at(x_R: jax.Array, index_N: jax.Array) -> jax.Array:
    return x_R.at[index_N].get(mode="fill", fill_value=0)
