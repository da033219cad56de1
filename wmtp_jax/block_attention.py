"""Exact attention in blocks: no array of `[L, L]`, neither forward nor backward.

A block of queries meets one block of keys after the other. Beside the sum of values it
keeps the largest score and the sum of the exponentials so far, so that the softmax
comes out whole (Milakov and Gimelshein, arXiv 1805.02867; Rabe and Staats, 2112.05682).
The backward pass makes every block of scores again from the logarithm of that sum (Dao
et al., arXiv 2205.14135).

    score[q, k] = scale * query[q] . key[k]       where start[q] <= k <= q
    out[q]      = sum_k softmax_k(score[q, k]) value[k]

What is not computed: blocks above the diagonal, and blocks of keys that end before the
first document of the queries begins, in every row of the batch.

Axes: B rows, L positions, N query heads, M key and value heads, H width of a head,
I blocks, Q positions of a block, X = N / M * Q queries of a block that share keys.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

BLOCK = 128  # positions, at most: see "Long rows" in benchmarks/README.md


def attend(
    q_BLNH: jax.Array, k_BLMH: jax.Array, v_BLMH: jax.Array, start_BL: jax.Array
) -> jax.Array:
    """`out_BLNH`, each query over the keys from its document's start up to itself.

    Products are summed, and the softmax is computed, in float32 (float64 of float64);
    their factors have the queries' dtype. The scale is `H ** -0.5`.

    Args:
      start_BL: where the document of a position begins in its row (`positions.py`).
    """
    B, L, N, H = q_BLNH.shape
    M = k_BLMH.shape[2]
    count = -(-L // BLOCK)
    Q = -(-L // count)
    more = count * Q - L
    if more:  # queries past the row see themselves, and nobody sees their keys
        spare = ((0, 0), (0, more), (0, 0), (0, 0))
        q_BLNH, k_BLMH, v_BLMH = (jnp.pad(x, spare) for x in (q_BLNH, k_BLMH, v_BLMH))
        past = jnp.broadcast_to(jnp.arange(L, L + more)[None], (B, more))
        start_BL = jnp.concatenate([start_BL, past.astype(start_BL.dtype)], axis=1)
    q_IBMXH = q_BLNH.reshape(B, count, Q, M, N // M, H).transpose(1, 0, 3, 4, 2, 5)
    k_IBMQH, v_IBMQH = (
        x.reshape(B, count, Q, M, H).transpose(1, 0, 3, 2, 4) for x in (k_BLMH, v_BLMH)
    )
    start_IBQ = start_BL.reshape(B, count, Q).transpose(1, 0, 2)
    q_IBMXH = q_IBMXH.reshape(count, B, M, N // M * Q, H)
    out_IBMXH = _attend(q_IBMXH, k_IBMQH, v_IBMQH, start_IBQ)
    out_IBMGQH = out_IBMXH.reshape(count, B, M, N // M, Q, H)
    out_BLNH = out_IBMGQH.transpose(1, 0, 4, 2, 3, 5).reshape(B, count * Q, N, H)
    return out_BLNH[:, :L]


@jax.custom_vjp
def _attend(q_IBMXH, k_IBMQH, v_IBMQH, start_IBQ):
    return _forward(q_IBMXH, k_IBMQH, v_IBMQH, start_IBQ)[0]


def _forward(q_IBMXH, k_IBMQH, v_IBMQH, start_IBQ):
    """The answer, and what the backward pass needs."""
    count, _, _, X, H = q_IBMXH.shape
    dtype = q_IBMXH.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    scores = partial(_scores, scale=H**-0.5)
    first_I = _first_blocks(start_IBQ)

    def of_queries(i, q_BMXH, start_BQ, first):
        def meet(j, carry, seen_B1XQ):
            top_BMX, sum_BMX, mixed_BMXH = carry
            s_BMXQ = scores(q_BMXH, k_IBMQH[j], seen_B1XQ)
            new_BMX = jnp.maximum(top_BMX, jnp.max(s_BMXQ, axis=3))
            p_BMXQ = jnp.exp(s_BMXQ - new_BMX[..., None])
            kept_BMX = jnp.exp(top_BMX - new_BMX)
            sum_BMX = sum_BMX * kept_BMX + jnp.sum(p_BMXQ, axis=3)
            more_BMXH = _product("bmxq,bmqh->bmxh", p_BMXQ.astype(dtype), v_IBMQH[j])
            return new_BMX, sum_BMX, mixed_BMXH * kept_BMX[..., None] + more_BMXH

        zero_BMX = jnp.zeros(q_BMXH.shape[:3], wide)
        nothing = zero_BMX - jnp.inf, zero_BMX, jnp.zeros(q_BMXH.shape, wide)
        # On the diagonal every query sees a key, itself: from there on a largest score
        # is a number, and what is masked has a share of exp(-inf) = 0.
        carry = meet(i, nothing, _seen(start_BQ, i, i, X))
        carry = jax.lax.fori_loop(
            first, i, lambda j, c: meet(j, c, _seen(start_BQ, i, j, X)), carry
        )
        top_BMX, sum_BMX, mixed_BMXH = carry
        out_BMXH = (mixed_BMXH / sum_BMX[..., None]).astype(dtype)
        return out_BMXH, top_BMX + jnp.log(sum_BMX)

    def one(_, given):
        return None, of_queries(*given)

    given = jnp.arange(count), q_IBMXH, start_IBQ, first_I
    _, (out_IBMXH, total_IBMX) = jax.lax.scan(one, None, given)
    return out_IBMXH, (q_IBMXH, k_IBMQH, v_IBMQH, start_IBQ, out_IBMXH, total_IBMX)


def _backward(kept, d_out_IBMXH):
    """Gradients of queries, keys and values: five products a block, nothing kept."""
    q_IBMXH, k_IBMQH, v_IBMQH, start_IBQ, out_IBMXH, total_IBMX = kept
    count, _, _, X, H = q_IBMXH.shape
    dtype = q_IBMXH.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    scale = H**-0.5
    first_I = _first_blocks(start_IBQ)
    # sum_k p[k] d_p[k], without p: the same as out . d_out.
    own_IBMX = jnp.sum(out_IBMXH.astype(wide) * d_out_IBMXH.astype(wide), axis=4)

    def one(d_keys, given):
        i, q_BMXH, start_BQ, first, d_out_BMXH, own_BMX, total_BMX = given

        def meet(j, carry):
            dq_BMXH, dk_IBMQH, dv_IBMQH = carry
            k_BMQH, v_BMQH = k_IBMQH[j], v_IBMQH[j]
            s_BMXQ = _scores(q_BMXH, k_BMQH, _seen(start_BQ, i, j, X), scale)
            p_BMXQ = jnp.exp(s_BMXQ - total_BMX[..., None])
            d_p_BMXQ = _product("bmxh,bmqh->bmxq", d_out_BMXH, v_BMQH)
            d_s_BMXQ = (scale * p_BMXQ * (d_p_BMXQ - own_BMX[..., None])).astype(dtype)
            dv_BMQH = _product("bmxq,bmxh->bmqh", p_BMXQ.astype(dtype), d_out_BMXH)
            dk_BMQH = _product("bmxq,bmxh->bmqh", d_s_BMXQ, q_BMXH)
            dq_BMXH = dq_BMXH + _product("bmxq,bmqh->bmxh", d_s_BMXQ, k_BMQH)
            return dq_BMXH, dk_IBMQH.at[j].add(dk_BMQH), dv_IBMQH.at[j].add(dv_BMQH)

        start = (jnp.zeros(q_BMXH.shape, wide), *d_keys)
        dq_BMXH, *d_keys = jax.lax.fori_loop(first, i + 1, meet, start)
        return tuple(d_keys), dq_BMXH.astype(dtype)

    zeros = jnp.zeros(k_IBMQH.shape, wide)
    given = (jnp.arange(count), q_IBMXH, start_IBQ, first_I)
    given += (d_out_IBMXH.astype(dtype), own_IBMX, total_IBMX)
    (dk_IBMQH, dv_IBMQH), dq_IBMXH = jax.lax.scan(one, (zeros, zeros), given)
    return dq_IBMXH, dk_IBMQH.astype(dtype), dv_IBMQH.astype(dtype), None


_attend.defvjp(_forward, _backward)


def _first_blocks(start_IBQ: jax.Array) -> jax.Array:
    """`first_I`: the first block of keys that a query of the block may see."""
    Q = start_IBQ.shape[2]
    return jnp.min(start_IBQ, axis=(1, 2)) // Q


def _seen(start_BQ: jax.Array, i: Any, j: Any, X: int) -> jax.Array:
    """`[B, 1, X, Q]`: which keys of block j the queries of block i may see."""
    Q = start_BQ.shape[1]
    within_Q = jnp.arange(Q)
    key_Q, query_Q = j * Q + within_Q, i * Q + within_Q
    earlier_QQ = key_Q[None, :] <= query_Q[:, None]
    same_BQQ = start_BQ[:, :, None] <= key_Q[None, None, :]
    seen_BQQ = same_BQQ & earlier_QQ[None]
    return jnp.tile(seen_BQQ, (1, X // Q, 1))[:, None]


def _scores(q_BMXH, k_BMQH, seen_B1XQ, scale):
    s_BMXQ = scale * _product("bmxh,bmqh->bmxq", q_BMXH, k_BMQH)
    return jnp.where(seen_B1XQ, s_BMXQ, -jnp.inf)


def _product(axes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(axes, a, b, preferred_element_type=wide)
