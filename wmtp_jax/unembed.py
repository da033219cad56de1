"""Unembedding and nll over rows, block by block: never all the logits at once.

Axes: R rows (any set of positions), D width, V vocabulary, K heads.
"""

import jax
import jax.numpy as jnp

BLOCK_ROWS = 512


def nll_rows(
    states_RD: jax.Array,
    unembed_VD: jax.Array,
    targets_R: jax.Array,
    *,
    block_rows: int = BLOCK_ROWS,
) -> jax.Array:
    """Negative log-likelihood of each row's target, in nats, float32.

        nll[r] = logsumexp_v(states[r] @ unembed[v]) - states[r] @ unembed[targets[r]]

    One block of `[block_rows, V]` logits is alive at a time, forward and backward: the
    backward pass computes a block's logits again. Products accumulate in float32, also
    for bfloat16 states.
    """
    R, D = states_RD.shape
    block_rows = min(block_rows, R)
    padding = -R % block_rows
    states = jnp.pad(states_RD, ((0, padding), (0, 0))).reshape(-1, block_rows, D)
    targets = jnp.pad(targets_R, (0, padding)).reshape(-1, block_rows)

    @jax.checkpoint
    def block(args):
        rows_RD, rows_R = args
        # Cast here, so that blocks add up their gradients in the matrix's float32.
        block_VD = unembed_VD.astype(rows_RD.dtype)
        wide = jnp.promote_types(rows_RD.dtype, jnp.float32)
        logits_RV = jnp.einsum(
            "rd,vd->rv", rows_RD, block_VD, preferred_element_type=wide
        )
        # A compare and sum instead of a gather: its gradient is no scatter.
        hit_RV = jnp.arange(unembed_VD.shape[0])[None, :] == rows_R[:, None]
        chosen_R = jnp.sum(jnp.where(hit_RV, logits_RV, 0.0), axis=1)
        return jax.nn.logsumexp(logits_RV, axis=1) - chosen_R

    return jax.lax.map(block, (states, targets)).reshape(-1)[:R]


def nll_heads(
    states_KBLD: jax.Array,
    targets_BLK: jax.Array,
    shared_VD: jax.Array,
    own_KVD: jax.Array | None,
) -> jax.Array:
    """`nll_BLK` of all heads.

    Heads without an unembedding of their own run as one set of rows over `shared_VD`;
    heads k >= 1 of type `linear` one after another over `own_KVD` (K - 1 matrices).
    """
    K, B, L, D = states_KBLD.shape
    states_KRD = states_KBLD.reshape(K, B * L, D)
    targets_KR = jnp.moveaxis(targets_BLK, 2, 0).reshape(K, B * L)
    if own_KVD is None:
        nll_KR = nll_rows(
            states_KRD.reshape(-1, D), shared_VD, targets_KR.reshape(-1)
        ).reshape(K, -1)
    else:
        first_R = nll_rows(states_KRD[0], shared_VD, targets_KR[0])
        others_KR = jax.lax.map(
            lambda args: nll_rows(*args), (states_KRD[1:], own_KVD, targets_KR[1:])
        )
        nll_KR = jnp.concatenate([first_R[None], others_KR])
    return jnp.moveaxis(nll_KR.reshape(K, B, L), 0, 2)
