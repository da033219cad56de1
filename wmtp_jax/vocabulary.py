"""Devices that share a row: each has the logits of a part of the vocabulary.

What a row needs of all of them, a few numbers, is reduced over them. Where one device
has all logits, `shared` is None and nothing is reduced.

Axes: N rows of a block, V tokens of the part that is here.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Shared:
    """Parts of equal size, one after the other along an axis of the mesh.

    Attributes:
      axis: of the mesh.
      vocab_size: of all parts together; what is past it is no token.
    """

    axis: str
    vocab_size: int


def tokens(shared: Shared | None, V: int) -> jax.Array:
    """The ids `[1, V]` that are here."""
    token_V = jnp.arange(V)
    if shared is not None:
        token_V += jax.lax.axis_index(shared.axis) * V
    return token_V[None, :]


def without_padding(shared: Shared | None, logits_NV: jax.Array) -> jax.Array:
    """Minus infinity for what is no token."""
    V = logits_NV.shape[1]
    if shared is None or jax.lax.axis_size(shared.axis) * V == shared.vocab_size:
        return logits_NV
    return jnp.where(tokens(shared, V) < shared.vocab_size, logits_NV, -jnp.inf)


def chosen(
    shared: Shared | None, logits_NV: jax.Array, target_N1: jax.Array
) -> jax.Array:
    """The targets' logits `[N, 1]`; 0 where another part has it."""
    if shared is None:
        return jnp.take_along_axis(logits_NV, target_N1, axis=1)
    V = logits_NV.shape[1]
    place_N1 = target_N1 - jax.lax.axis_index(shared.axis) * V
    here_N1 = (place_N1 >= 0) & (place_N1 < V)
    place_N1 = jnp.where(here_N1, place_N1, 0)
    return jnp.where(here_N1, jnp.take_along_axis(logits_NV, place_N1, axis=1), 0)


def largest(shared: Shared | None, logits_NV: jax.Array) -> jax.Array:
    """The largest logit of each row, `[N, 1]`."""
    top_N1 = jnp.max(logits_NV, axis=1, keepdims=True)
    return top_N1 if shared is None else jax.lax.pmax(top_N1, shared.axis)


def summed(shared: Shared | None, *parts_N1: jax.Array) -> tuple[jax.Array, ...]:
    """Each of these summed over all parts, in one reduction."""
    if shared is None:
        return parts_N1
    return tuple(jax.lax.psum(jnp.stack(parts_N1), shared.axis))


def best(shared: Shared | None, logits_NV: jax.Array) -> jax.Array:
    """The argmax `[N]` over all tokens; of equal logits the first."""
    place_N = jnp.argmax(logits_NV, axis=1)
    if shared is None:
        return place_N
    own_N1 = jnp.max(logits_NV, axis=1, keepdims=True)
    is_best_N = (own_N1 == largest(shared, logits_NV))[:, 0]
    token_N = tokens(shared, logits_NV.shape[1])[0, place_N]
    return jax.lax.pmin(jnp.where(is_best_N, token_N, shared.vocab_size), shared.axis)
