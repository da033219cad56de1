"""Rows that are decoded together: their state on the device, and how it moves on.

`advance` runs one block of tokens, a row's last token and what is drafted behind it,
and keeps of the drafts what the model itself chooses. `steps` does so without drafts,
many times in one call.

Axes: B rows, T tokens of a block, J = T - 1 drafts, E ends of text, C steps of a call,
N alternatives that are told of a token.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from shared.config.model import ModelConfig
from wmtp_jax.decoding import decoder, draft_heads
from wmtp_jax.decoding.decoder import Cache, Params
from wmtp_jax.decoding.sampler import Controls, choose, log_probabilities


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Texts that grow.

    Attributes:
      cache: keys and values of the trunk's layers, then of block heads.
      last_B: the newest token, which no layer has seen yet.
      length_B: how many tokens the cache has.
      left_B: how many more a row may get; 0 for a row that rests.
      ignore_B: whether it goes on after an end of text.
      controls: how tokens are drawn.
    """

    cache: Cache
    last_B: jax.Array
    length_B: jax.Array
    left_B: jax.Array
    ignore_B: jax.Array
    controls: Controls


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gained:
    """What one block has given.

    Attributes:
      token_BT: what the model chose; only the first `count_B` are the text's.
      count_B: 0 for a row that rests.
      logprob_BT, top_BTN, top_logprob_BTN: if asked for.
      draft_BJ: what the heads draft next, if asked for.
    """

    token_BT: jax.Array
    count_B: jax.Array
    logprob_BT: jax.Array | None = None
    top_BTN: jax.Array | None = None
    top_logprob_BTN: jax.Array | None = None
    draft_BJ: jax.Array | None = None


@dataclass(frozen=True)
class Asked:
    """What of a block is fixed when it is compiled.

    Attributes:
      ends: tokens that end a text.
      most: alternatives told of each token; None: no log-probabilities.
      heads: whether the heads draft.
    """

    cfg: ModelConfig
    ends: tuple[int, ...]
    most: int | None = None
    heads: bool = False


def advance(
    params: Params,
    rows: Rows,
    draft_BJ: jax.Array,
    token_map_N: jax.Array | None,
    *,
    asked: Asked,
) -> tuple[Rows, Gained]:
    """One block: `draft_BJ` is verified, -1 where nothing is drafted."""
    cfg, n = asked.cfg, asked.cfg.num_layers
    tokens_BT = jnp.concatenate([rows.last_B[:, None], draft_BJ], axis=1)
    B, T = tokens_BT.shape
    known_BT = jnp.maximum(tokens_BT, 0)
    states, cache = decoder.extend(params, rows.cache[:n], known_BT, rows.length_B, cfg)
    logits_VR = decoder.unembed(params, states.hidden_DR)
    place_BT = rows.length_B[:, None] + jnp.arange(1, T + 1)[None]
    controls = rows.controls.repeated(T)
    token_R = choose(logits_VR, controls, place_BT.reshape(-1))
    token_BT = token_R.reshape(B, T)
    count_B, ended_B = _count(rows, draft_BJ, token_BT, asked.ends)
    last_B = jnp.maximum(count_B - 1, 0)
    newest_B = jnp.take_along_axis(token_BT, last_B[:, None], axis=1)[:, 0]
    gained = Gained(token_BT, count_B)
    if asked.most is not None:
        told = log_probabilities(logits_VR, token_R, max(1, asked.most))
        own, top, top_logprob = (x.reshape(B, T, *x.shape[1:]) for x in told)
        gained = replace(
            gained, logprob_BT=own, top_BTN=top, top_logprob_BTN=top_logprob
        )
    more = rows.cache[n:]
    if asked.heads or more:  # block heads keep up where they do not draft
        places = decoder.places_of(rows.length_B, T, cfg)
        of_heads, more = draft_heads.head_states(
            params, more, states, places, last_B, cfg
        )
    if asked.heads:
        place_B = rows.length_B + count_B
        next_BJ = draft_heads.draft(
            params, of_heads, rows.controls, place_B, token_map_N
        )
        gained = replace(gained, draft_BJ=next_BJ)
    moved = replace(
        rows,
        cache=(*cache, *more),
        last_B=jnp.where(count_B > 0, newest_B, rows.last_B),
        length_B=rows.length_B + count_B,
        left_B=jnp.where(ended_B, 0, rows.left_B - count_B),
    )
    return moved, gained


def _count(
    rows: Rows, draft_BJ: jax.Array, token_BT: jax.Array, ends: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """How many tokens each row gains, and whether the last of them ends it."""
    agree_BJ = (draft_BJ == token_BT[:, :-1]).astype(jnp.int32)
    count_B = 1 + jnp.sum(jnp.cumprod(agree_BJ, axis=1), axis=1)
    count_B = jnp.minimum(count_B, rows.left_B)
    end_BT = jnp.isin(token_BT, jnp.asarray(ends, jnp.int32))
    end_BT = end_BT & ~rows.ignore_B[:, None]
    T = token_BT.shape[1]
    first_B = jnp.where(jnp.any(end_BT, axis=1), jnp.argmax(end_BT, axis=1), T)
    ended_B = first_B < count_B
    return jnp.where(ended_B, first_B + 1, count_B), ended_B


def steps(
    params: Params,
    rows: Rows,
    count: jax.Array,
    *,
    asked: Asked,
    most: int,
) -> tuple[Rows, Gained]:
    """At most `count` (<= `most`) tokens of each row, one after the other.

    Returns:
      The rows, and what they gained, as if it were one block of `most` tokens.
    """
    B = rows.last_B.shape[0]
    nothing_B0 = jnp.zeros((B, 0), jnp.int32)
    one = partial(advance, params, token_map_N=None, asked=asked)
    shape = jax.eval_shape(lambda rows: one(rows, nothing_B0)[1], rows)
    empty = jax.tree.map(
        lambda x: jnp.zeros((B, most, *x.shape[2:]) if x.ndim > 1 else (B,), x.dtype),
        shape,
    )

    def goes_on(carry: Any) -> jax.Array:
        number, rows, _ = carry
        return (number < count) & jnp.any(rows.left_B > 0)

    def step(carry: Any) -> Any:
        number, rows, found = carry
        rows, new = one(rows, nothing_B0)

        def put(x, y):
            if x.ndim == 1:
                return x + y
            return lax.dynamic_update_slice_in_dim(x, y, number, axis=1)

        return number + 1, rows, jax.tree.map(put, found, new)

    _, rows, found = lax.while_loop(goes_on, step, (0, rows, empty))
    return rows, found
