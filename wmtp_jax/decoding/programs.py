"""The jitted programs of decoding; each compiles once per number of rows and places."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from shared.head_types import HEAD_TYPES
from wmtp_jax.decoding import decoder, draft_heads
from wmtp_jax.decoding.decoder import Cache, Params
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.decoding.rows import Rows, advance, steps
from wmtp_jax.decoding.sampler import Controls, log_probabilities

MOST_STEPS = 16  # tokens of one call without drafts
LEAST_PLACES = 128  # of a cache; it doubles
# Tokens of one pass over a prompt: what it computes beyond the prompt is lost.
# A long one is read in blocks of the last size, so that all are split alike and share
# what they begin with; larger ones are no faster on a CPU.
BLOCKS = (16, 32, 48, 64)
LONGEST_BLOCK = BLOCKS[-1]
SCORED_BLOCK = 16  # tokens of a prompt whose logits are held at once


@dataclass(frozen=True)
class Programs:
    """The programs of one model.

    Attributes:
      advance: `(params, rows, draft_BJ, token_map, asked) -> (rows, gained)`.
      steps: `(params, rows, count, asked) -> (rows, gained)`.
      prefill: `(params, cache, tokens_1T, start_1) -> (hidden_DT, cache)`, of one row.
      fit: `(cache, places) -> cache`, a copy of one row's.
      score: `(params, hidden_DT, next_T, most) -> log-probabilities` of a prompt.
      put: `(rows, one row's cache, where, what) -> rows`.
      resize: `(rows, places) -> rows`.
      take: `(rows, index_B) -> rows`.
    """

    advance: Callable[..., Any]
    steps: Callable[..., Any]
    prefill: Callable[..., Any]
    fit: Callable[..., Cache]
    score: Callable[..., Any]
    put: Callable[..., Rows]
    resize: Callable[..., Rows]
    take: Callable[..., Rows]


def make_programs(model: Loaded) -> Programs:
    """The programs, jitted; rows are donated, since a cache is large."""
    return Programs(
        advance=jax.jit(advance, static_argnames="asked", donate_argnames="rows"),
        steps=jax.jit(
            partial(steps, most=MOST_STEPS),
            static_argnames="asked",
            donate_argnames="rows",
        ),
        prefill=jax.jit(partial(prefill, model=_Shape(model)), donate_argnames="cache"),
        fit=jax.jit(fit, static_argnames="places"),
        score=jax.jit(score, static_argnames="most"),
        put=jax.jit(put, donate_argnames="rows"),
        resize=jax.jit(resize, static_argnames="places"),
        take=jax.jit(take),
    )


class _Shape:
    """What of a model a program is compiled for; nothing of its weights."""

    def __init__(self, model: Loaded) -> None:
        self.cfg = model.cfg
        self.has_blocks = num_layers(model) > model.cfg.num_layers


def num_layers(model: Loaded) -> int:
    """Layers with keys and values: the trunk's, and those of block heads."""
    has_one = HEAD_TYPES[model.heads.type].copies_block
    return model.cfg.num_layers + (model.heads.count - 1) * has_one


def bytes_of_place(model: Loaded) -> int:
    """What one row's keys and values of one token take."""
    cfg = model.cfg
    numbers = 2 * num_layers(model) * cfg.kv_heads * cfg.H
    return numbers * jnp.dtype(model.dtype).itemsize


def empty_rows(model: Loaded, rows: int, places: int) -> Rows:
    """Rows that rest."""
    zeros = partial(jnp.zeros, (rows,))
    return Rows(
        cache=decoder.empty_cache(
            model.cfg, num_layers(model), rows, places, model.dtype
        ),
        last_B=zeros(jnp.int32),
        length_B=zeros(jnp.int32),
        left_B=zeros(jnp.int32),
        ignore_B=zeros(bool),
        controls=Controls(
            temperature_R=zeros(jnp.float32),
            top_k_R=zeros(jnp.int32),
            top_p_R=jnp.ones((rows,), jnp.float32),
            min_p_R=zeros(jnp.float32),
            key_R2=jnp.zeros((rows, 2), jnp.uint32),
        ),
    )


def prefill(
    params: Params,
    cache: Cache,
    tokens_1T: jax.Array,
    start_1: jax.Array,
    *,
    model: _Shape,
) -> tuple[jax.Array, Cache]:
    """A block of a prompt of one row: its states, and the cache with it."""
    cfg, n = model.cfg, model.cfg.num_layers
    states, kept = decoder.extend(params, cache[:n], tokens_1T, start_1, cfg)
    more = cache[n:]
    if model.has_blocks:
        places = decoder.places_of(start_1, tokens_1T.shape[1], cfg)
        _, more = draft_heads.head_states(
            params, more, states, places, jnp.zeros_like(start_1), cfg
        )
    return states.hidden_DR, (*kept, *more)


def score(params: Params, hidden_DT: jax.Array, next_T: jax.Array, *, most: int) -> Any:
    """Log-probabilities of each next token of a prompt, and the most probable ones."""
    D, T = hidden_DT.shape
    size = min(SCORED_BLOCK, T)
    blocks = (
        jnp.moveaxis(hidden_DT.reshape(D, T // size, size), 1, 0),
        next_T.reshape(-1, size),
    )

    def one(block: Any) -> Any:
        hidden_DX, next_X = block
        logits = decoder.unembed(params, hidden_DX)
        return log_probabilities(logits, next_X, max(1, most))

    found = lax.map(one, blocks)
    return jax.tree.map(lambda x: x.reshape(T, *x.shape[2:]), found)


def put(rows: Rows, cache: Cache, where: jax.Array, what: Rows) -> Rows:
    """Row `where` becomes the one row of `what`, with the prompt's cache."""

    def write(x, y, at):
        start = (at, *(0,) * (x.ndim - 1))
        return lax.dynamic_update_slice(x, y.astype(x.dtype), start)

    heads = cache[0][0].shape[0]  # keys and values of one row
    kept = jax.tree.map(partial(write, at=where * heads), rows.cache, cache)
    own = (replace(rows, cache=()), replace(what, cache=()))
    return replace(jax.tree.map(partial(write, at=where), *own), cache=kept)


def fit(cache: Cache, *, places: int) -> Cache:
    """A copy, even where nothing changes: who asks for it will donate it."""
    return jax.tree.map(jnp.copy, decoder.with_places(cache, places))


def resize(rows: Rows, *, places: int) -> Rows:
    """The same rows, with more places in the cache or fewer."""
    return replace(rows, cache=decoder.with_places(rows.cache, places))


def take(rows: Rows, index_B: jax.Array) -> Rows:
    """These of the rows, in this order."""
    B = rows.last_B.shape[0]

    def of_cache(x_Y):
        x_BM = x_Y.reshape(B, -1, *x_Y.shape[1:])
        return x_BM[index_B].reshape(-1, *x_Y.shape[1:])

    own = jax.tree.map(lambda x: x[index_B], replace(rows, cache=()))
    return replace(own, cache=jax.tree.map(of_cache, rows.cache))


def places_for(length: int) -> int:
    """The cache's places for so many tokens: the next of 128, 256, 512, ..."""
    places = LEAST_PLACES
    while places < length:
        places *= 2
    return places


def block_for(length: int) -> int:
    """Tokens of the pass over so many of a prompt: the next of 16, 32, 48, 64."""
    return next((block for block in BLOCKS if block >= length), LONGEST_BLOCK)
