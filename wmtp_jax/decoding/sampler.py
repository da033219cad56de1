"""The next token of every row from its logits: greedy, or drawn.

A token is drawn by Gumbel noise, `argmax(logits / temperature + noise)`, which has the
distribution of the softmax. The noise is keyed by the row's seed and the token's place
in its text. So a row's tokens depend neither on its neighbours nor on how many tokens
were computed at once, and a head that drafts with the noise of the place it drafts for
finds the model's own token as often as the two distributions allow: drafts are kept
where they are what the model draws, and what is drawn is the same with drafts and
without (d.10 in the notes on peers: two draws with noise of their own agree far less).

Axes: R rows, V vocabulary, E ends of text.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from shared.decoding.sampling import lowest_allowed, mass_of

LISTED = 256  # largest logits of a row; sorting 49 152 takes fifty times as long


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Controls:
    """How each row's tokens are drawn; the fields of `Sampling`."""

    temperature_R: jax.Array
    top_k_R: jax.Array
    top_p_R: jax.Array
    min_p_R: jax.Array
    key_R2: jax.Array

    def repeated(self, times: int) -> "Controls":
        """Each row so many times in a row."""
        return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), self)


def choose(logits_VR: jax.Array, controls: Controls, place_R: jax.Array) -> jax.Array:
    """`token_R`.

    Args:
      place_R: of the token in its row's text, by which its noise is keyed.
    """
    greedy_R = argmax(logits_VR)

    def draw(_):
        logits_RV = logits_VR.T
        cold = controls.temperature_R[:, None] == 0
        scaled_RV = logits_RV / jnp.where(cold, 1, controls.temperature_R[:, None])
        kept_RV = kept(scaled_RV, controls)
        noise_RV = noise(controls.key_R2, place_R, scaled_RV.shape[1])
        drawn_R = jnp.argmax(jnp.where(kept_RV, scaled_RV + noise_RV, -jnp.inf), axis=1)
        return jnp.where(cold[:, 0], greedy_R, drawn_R.astype(jnp.int32))

    return lax.cond(jnp.any(controls.temperature_R > 0), draw, lambda _: greedy_R, None)


def kept(scaled_RV: jax.Array, controls: Controls) -> jax.Array:
    """`kept_RV` of `shared.decoding.sampling.allowed`, mostly without sorting all V.

    The LISTED largest logits tell the smallest that may be drawn, wherever they hold
    one that may not. A row that needs all of V changes nothing in the others.
    """
    limits = controls.top_k_R, controls.top_p_R, controls.min_p_R
    asked = (controls.top_k_R > 0) | (controls.top_p_R < 1) | (controls.min_p_R > 0)

    def limited(scaled_RV):
        first_RN, _ = lax.top_k(scaled_RV, min(LISTED, scaled_RV.shape[1]))
        # Else XLA takes slices of slices for a sort, and sorts all V on a CPU.
        first_RN = lax.optimization_barrier(first_RN)
        mass_R1 = mass_of(scaled_RV)
        lowest_R1, known_R = lowest_allowed(first_RN, mass_R1, *limits)

        def with_all(lowest_R1):
            sorted_RV = jnp.sort(scaled_RV, axis=1, descending=True)
            whole_R1, _ = lowest_allowed(sorted_RV, mass_R1, *limits)
            return jnp.where(known_R[:, None], lowest_R1, whole_R1)

        enough = jnp.all(known_R | ~asked)
        lowest_R1 = lax.cond(enough, lambda x: x, with_all, lowest_R1)
        return (scaled_RV >= lowest_R1) | ~asked[:, None]

    everything = jnp.ones(scaled_RV.shape, bool)
    return lax.cond(jnp.any(asked), limited, lambda _: everything, scaled_RV)


def noise(key_R2: jax.Array, place_R: jax.Array, size: int) -> jax.Array:
    """Gumbel noise `[R, size]` of each row's token at that place."""

    def one(key_2, place):
        key = jax.random.fold_in(jax.random.wrap_key_data(key_2), place)
        return jax.random.gumbel(key, (size,))

    return jax.vmap(one)(key_R2, place_R)


def log_probabilities(
    logits_VR: jax.Array, token_R: jax.Array, most: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`(logprob_R, top_token_RN, top_logprob_RN)` at temperature 1, N the `most`.

    N is V where that is less.
    """
    total_R = jax.nn.logsumexp(logits_VR, axis=0)
    own_R = jnp.take_along_axis(logits_VR, token_R[None], axis=0)[0]
    top_RN, index_RN = lax.top_k(logits_VR.T, min(most, logits_VR.shape[0]))
    return own_R - total_R, index_RN, top_RN - total_R[:, None]


def argmax(logits_VR: jax.Array) -> jax.Array:
    """Of each column, the first of equal ones; two reductions are faster than one."""
    V = logits_VR.shape[0]
    top_1R = jnp.max(logits_VR, axis=0, keepdims=True)
    index_V1 = jnp.arange(V, dtype=jnp.int32)[:, None]
    return jnp.min(jnp.where(logits_VR == top_1R, index_V1, V - 1), axis=0)
