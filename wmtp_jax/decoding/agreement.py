"""Whether the heads' most probable tokens are those that the model then writes.

A text of the model goes through the trunk once more, block by block, as a prompt does;
at each position every head drafts as if decoding stood there. Only the logits of one
block are held at once.

Axes: T tokens of a block, K heads, J = K - 1 of them drafting, L tokens of a text.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from shared.config.model import ModelConfig
from shared.decoding.acceptance import Agreement
from wmtp_jax.decoding import decoder, draft_heads
from wmtp_jax.decoding.decoder import Cache, Params
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.decoding.programs import num_layers, places_for
from wmtp_jax.decoding.sampler import Controls

BLOCK = 32  # tokens, whose logits of all heads are held at once

Text = tuple[Sequence[int], Sequence[int]]  # a prompt, and what was written behind it


def agreement(model: Loaded, texts: Iterable[Text]) -> Agreement:
    """Holds all heads against texts that the model has written greedily.

    A head that drafts only some ids (`token_map`) can agree only on these.
    """
    counts, best = Agreement(model.heads.count), make_best(model)
    for prompt, written in texts:
        tokens = [*prompt, *written]
        if written:
            counts.count(best(tokens), tokens, len(prompt))
    return counts


def make_best(model: Loaded) -> Callable[[Sequence[int]], np.ndarray]:
    """A function `tokens -> best_LK`: each head's most probable token everywhere."""
    jitted = jax.jit(partial(best_of_block, cfg=model.cfg), donate_argnames="cache")
    token_map_N = None if model.token_map is None else jnp.asarray(model.token_map)

    def best(tokens: Sequence[int]) -> np.ndarray:
        L, found = len(tokens), []
        padded = np.zeros((1, -(-L // BLOCK) * BLOCK), np.int32)
        padded[0, :L] = tokens
        cache = decoder.empty_cache(
            model.cfg, num_layers(model), 1, places_for(padded.shape[1]), model.dtype
        )
        for start in range(0, L, BLOCK):
            tokens_1T = padded[:, start : start + BLOCK]
            start_1 = np.asarray([start], np.int32)
            best_TK, cache = jitted(
                model.params, cache, tokens_1T, start_1, token_map_N
            )
            found.append(np.asarray(best_TK))
        return np.concatenate(found)[:L]

    return best


def best_of_block(
    params: Params,
    cache: Cache,
    tokens_1T: jax.Array,
    start_1: jax.Array,
    token_map_N: jax.Array | None,
    *,
    cfg: ModelConfig,
) -> tuple[jax.Array, Cache]:
    """`best_TK` of one row's next block, and the cache with it."""
    n, T = cfg.num_layers, tokens_1T.shape[1]
    states, kept = decoder.extend(params, cache[:n], tokens_1T, start_1, cfg)
    model_T1 = jnp.argmax(decoder.unembed(params, states.hidden_DR), axis=0)[:, None]
    if not params["heads"]:
        return model_T1.astype(jnp.int32), kept
    # To the heads every token is the last of a row of its own.
    zeros = jnp.zeros(T, jnp.int32)
    places = decoder.places_of(start_1, T, cfg)
    of_heads, more = draft_heads.head_states(
        params, cache[n:], states, places, zeros, cfg
    )
    greedy = Controls(
        temperature_R=jnp.zeros(T),
        top_k_R=zeros,
        top_p_R=jnp.ones(T),
        min_p_R=jnp.zeros(T),
        key_R2=jnp.zeros((T, 2), jnp.uint32),
    )
    draft_TJ = draft_heads.draft(params, of_heads, greedy, zeros, token_map_N)
    best_TK = jnp.concatenate([model_T1.astype(jnp.int32), draft_TJ], axis=1)
    return best_TK, (*kept, *more)
