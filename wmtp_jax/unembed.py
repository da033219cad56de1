"""Unembedding and nll of the rows that weigh something, with the gradient at once.

Weights are known before the heads run. So a block's logits are turned into its gradient
in the same pass and never kept: three matrix products a row. Rows of weight 0 are left
out before the first product: the others are gathered to the front and walked over block
by block (`row_blocks.py`), on each device over its own (`head_pass.py`).

Axes: B rows, L positions, K heads, V vocabulary, D width, R = B L rows of a head.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from wmtp_jax import head_pass, layout, row_blocks
from wmtp_jax.head_pass import Heads
from wmtp_jax.row_blocks import Scored


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
    given = _without_gradient((states_KBLD, shared_VD, own_KVD))
    heads = (_rows(given[0]), *given[1:])
    rows = tuple(_rows_of_heads(x) for x in (targets_BLK, kept_BLK))
    (nll_KR,), _, _ = head_pass.run(head_pass.NLL, mesh, heads, rows)
    return _positions(nll_KR, targets_BLK.shape)


@jax.custom_jvp
def _without_gradient(given: Heads) -> Heads:
    return given


@_without_gradient.defjvp
def _refuse_gradient(primals, tangents):
    raise TypeError(
        "nll_heads must not be differentiated: weighted_nll_heads has the gradient"
    )


def best_tokens(
    states_BLD: jax.Array,
    kept_BL: jax.Array,
    unembed_VD: jax.Array,
    *,
    mesh: Mesh | None = None,
) -> jax.Array:
    """The token that a head would say where `kept_BL`, 0 elsewhere; no gradient.

    token[r] = argmax_v states[r] @ unembed[v]        (of equal ones the first)
    """
    states, unembed_VD = jax.lax.stop_gradient((states_BLD[None], unembed_VD))
    kept_KR = _rows_of_heads(kept_BL[..., None])
    rows = (jnp.zeros(kept_KR.shape, jnp.int32), kept_KR)  # nobody reads targets
    heads = (_rows(states), unembed_VD, None)
    (token_KR,), _, _ = head_pass.run(head_pass.BEST, mesh, heads, rows)
    return token_KR.reshape(kept_BL.shape)


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
    V, D = unembed_VD.shape
    parts = 1 if mesh is None else layout.row_parts(mesh)
    share = 1 if mesh is None else mesh.shape[layout.TENSOR]
    if not row_blocks.fits_one_block(kept_BL.size // parts, -(-V // share), D):
        (nll_KR,), _, _ = head_pass.run(head_pass.NLL, mesh, heads, rows)
        return nll_KR.reshape(kept_BL.shape), None
    scored = head_pass.run_scored(mesh, heads, rows)
    return scored.nll_R.reshape(kept_BL.shape), scored


def weighted_nll_heads(
    states_KBLD: jax.Array,
    targets_BLK: jax.Array,
    kept_BLK: jax.Array,
    factor_BLK: jax.Array,
    shared_VD: jax.Array,
    own_KVD: jax.Array | None,
    *,
    shared_scale: float = 1.0,
    heads_only: bool = False,
    scored: Scored | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`(sum(factor * nll), nll_BLK)` over the kept rows; the others cost nothing.

    Only the sum has a gradient, with respect to states and unembeddings: factors are
    constants, and `nll_BLK` is there to be looked at. Arguments as in `nll_heads`.

    Args:
      shared_scale: of the gradient of heads k >= 1 that `shared_VD` gets.
      heads_only: whether what is the trunk's is constant: `shared_VD`, head 0's state,
        those of heads with an unembedding of their own. Their products are spared.
      scored: what `score_rows` kept of head 0, if its kept rows are among those.
    """
    heads = (_rows(states_KBLD), shared_VD, own_KVD)
    rows = tuple(_rows_of_heads(x) for x in (targets_BLK, kept_BLK, factor_BLK))
    if own_KVD is None and shared_scale != 1 and not heads_only:
        scale_KR = jnp.full(rows[0].shape, shared_scale, states_KBLD.dtype)
        rows = (*rows, scale_KR.at[0].set(1))
    total, nll_KR = _weighted((heads_only, mesh), heads, rows, scored)
    return total, jax.lax.stop_gradient(_positions(nll_KR, targets_BLK.shape))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted(
    how: tuple[bool, Mesh | None],
    heads: Heads,
    rows: tuple[jax.Array, ...],
    scored: Scored | None,
) -> tuple[jax.Array, jax.Array]:
    del scored  # not worth a second form for a sum without a gradient
    targets_KR, kept_KR, factor_KR, *_ = rows
    (nll_KR,), _, _ = head_pass.run(head_pass.NLL, how[1], heads, (targets_KR, kept_KR))
    return _sum(kept_KR, factor_KR, nll_KR), nll_KR


def _forward(how, heads, rows, scored):
    heads_only, mesh = how
    core = head_pass.GRADIENT_OF_HEADS if heads_only else head_pass.GRADIENT
    found, d_shared, d_own = head_pass.run(core, mesh, heads, rows, scored)
    nll_KR, d_states = found
    _, kept_KR, factor_KR, *_ = rows
    total = _sum(kept_KR, factor_KR, nll_KR)
    types = [None if x is None else x.dtype for x in heads]
    pairs = zip((d_states, d_shared, d_own), types, strict=True)
    return (total, nll_KR), tuple(None if x is None else x.astype(t) for x, t in pairs)


def _backward(how, gradients, cotangents):
    del how
    scale, _ = cotangents
    scaled = jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradients)
    return scaled, None, None


def _sum(kept_KR: jax.Array, factor_KR: jax.Array, nll_KR: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(kept_KR, factor_KR, 0) * nll_KR)


_weighted.defvjp(_forward, _backward)


def _rows(states_KBLD: jax.Array) -> jax.Array:
    K, B, L, D = states_KBLD.shape
    return states_KBLD.reshape(K, B * L, D)


def _rows_of_heads(x_BLK: jax.Array) -> jax.Array:
    B, L, K = x_BLK.shape
    return jnp.moveaxis(x_BLK, 2, 0).reshape(K, B * L)


def _positions(x_KR: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.moveaxis(x_KR.reshape(x_KR.shape[0], *shape[:2]), 0, 2)
