"""How surprised every head is by a text that is known to be right.

The text goes through the trunk once, behind its prompt, block by block as in decoding;
what prompts begin with alike is read once. Only the logits of one block are held.

Axes: T tokens of a block, K heads, V vocabulary, D width.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from shared.config.model import ModelConfig
from shared.decoding.requests import Request
from shared.evaluation.results.of_problems import HeadMeasure
from wmtp_jax.decoding import decoder, draft_heads
from wmtp_jax.decoding.decoder import Cache, Params
from wmtp_jax.decoding.loaded import Loaded, without_heads
from wmtp_jax.decoding.programs import make_programs, places_for
from wmtp_jax.decoding.prompts import Prefill, Prompts

BLOCK = 32  # tokens, whose logits of all heads are held at once

Measure = Callable[[Sequence[int], Sequence[int]], tuple[HeadMeasure, ...]]


def make_measure(model: Loaded, prompts: Prompts | None = None) -> Measure:
    """A function `(prompt, text) -> measures`, one of each head.

    Head k predicts token j from the state at j - 1 - k: the first tokens of the text
    from within the prompt, and none from before its beginning. Heads that score only
    some ids (`token_map`) have no probability of the others, and are left out.

    Args:
      prompts: whose caches are shared, such as those of an engine with the same heads.
    """
    if model.token_map is not None:
        model = without_heads(model)
    K = model.heads.count
    if prompts is None or prompts.model.heads.count != K:
        prompts = Prompts(model, make_programs(model))
    run = jax.jit(partial(block_of, cfg=model.cfg), donate_argnames="cache")

    def measure(prompt: Sequence[int], text: Sequence[int]) -> tuple[HeadMeasure, ...]:
        tokens, first = [*prompt, *text], max(0, len(prompt) - K)
        most = model.cfg.max_positions + 1  # the last token is only a target
        if not prompt or not text or len(tokens) > most:
            raise ValueError(
                f"prompt and text must have 1 to {most} tokens together, and one each, "
                f"got {len(prompt)} and {len(text)}"
            )
        # All of the prompt, as an engine reads it; the end of it is then read again.
        cache = prompts.read(Prefill(Request(prompt=tuple(prompt))))
        target_LK = targets_of(tokens, len(prompt), first, K)
        places = places_for(first + len(target_LK))
        cache = prompts.programs.fit(cache, places=places)
        found = []
        for start in range(first, len(tokens) - 1, BLOCK):
            part = tokens[start : start + BLOCK]
            tokens_1T = np.zeros((1, BLOCK), np.int32)
            tokens_1T[0, : len(part)] = part
            target_TK = target_LK[start - first : start - first + BLOCK]
            start_1 = np.asarray([start], np.int32)
            sums, cache = run(model.params, cache, tokens_1T, start_1, target_TK)
            found.append(jax.device_get(sums))
        return measures_of(found)

    return measure


def targets_of(tokens: Sequence[int], begin: int, first: int, K: int) -> np.ndarray:
    """`target_LK` from position `first` on, to whole blocks; -1 where there is none.

    Args:
      begin: index of the first token that is a target.
    """
    L = -(-(len(tokens) - 1 - first) // BLOCK) * BLOCK
    target_LK = np.full((L, K), -1, np.int32)
    for k in range(K):
        for j in range(max(begin, first + 1 + k), len(tokens)):
            target_LK[j - 1 - k - first, k] = tokens[j]
    return target_LK


def block_of(
    params: Params,
    cache: Cache,
    tokens_1T: jax.Array,
    start_1: jax.Array,
    target_TK: jax.Array,
    *,
    cfg: ModelConfig,
) -> tuple[tuple[jax.Array, ...], Cache]:
    """Of one block `(nll_K, targets_K, right_K, rank_K)`, summed, and the cache."""
    n, T = cfg.num_layers, tokens_1T.shape[1]
    states, kept = decoder.extend(params, cache[:n], tokens_1T, start_1, cfg)
    logits = [decoder.unembed(params, states.hidden_DR)]
    more: Cache = ()
    if params["heads"]:
        # To the heads every token is the last of a row of its own.
        places = decoder.places_of(start_1, T, cfg)
        of_heads, more = draft_heads.head_states(
            params, cache[n:], states, places, jnp.zeros(T, jnp.int32), cfg
        )
        logits_VTJ = draft_heads.logits_of(params, of_heads, None)
        logits_VTJ = logits_VTJ.reshape(logits_VTJ.shape[0], T, -1)
        logits += [logits_VTJ[:, :, j] for j in range(logits_VTJ.shape[2])]
    found = [sums_of(x_VT, target_TK[:, k]) for k, x_VT in enumerate(logits)]
    return tuple(jnp.stack(x) for x in zip(*found, strict=True)), (*kept, *more)


def sums_of(logits_VT: jax.Array, target_T: jax.Array) -> tuple[jax.Array, ...]:
    """Of one head: nll in nats, targets, those it says, and their ranks from 1."""
    is_target_T = target_T >= 0
    own_1T = jnp.take_along_axis(logits_VT, jnp.maximum(target_T, 0)[None], axis=0)
    nll_T = jax.nn.logsumexp(logits_VT, axis=0) - own_1T[0]
    right_T = jnp.argmax(logits_VT, axis=0) == target_T
    rank_T = 1 + jnp.sum(logits_VT > own_1T, axis=0)
    each = (nll_T, jnp.ones_like(target_T), right_T, rank_T)
    return tuple(jnp.sum(jnp.where(is_target_T, x, 0)) for x in each)


def measures_of(found: Sequence[Sequence[np.ndarray]]) -> tuple[HeadMeasure, ...]:
    """The sums of all blocks, in float64."""
    nll_K, targets_K, right_K, rank_K = (
        np.sum([np.asarray(block[i], np.float64) for block in found], axis=0)
        for i in range(4)
    )
    return tuple(
        HeadMeasure(
            nll=float(nll_K[k]),
            targets=int(targets_K[k]),
            right=int(right_K[k]),
            rank=int(rank_K[k]),
        )
        for k in range(len(nll_K))
    )
