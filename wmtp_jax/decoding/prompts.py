"""From a prompt to a row: one pass over it, shared by all samples of a request.

Where prompts begin alike (shots, a system message), what the caches of the last ones
have of it is used again. Passes begin at the same places in every prompt, so that this
changes no bit: a text does not depend on what was asked before.
"""

from collections import deque
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shared.decoding.requests import MOST_TOP, Request, Top
from wmtp_jax.decoding import decoder
from wmtp_jax.decoding.decoder import Cache
from wmtp_jax.decoding.loaded import Loaded
from wmtp_jax.decoding.programs import (
    LONGEST_BLOCK,
    Programs,
    block_for,
    num_layers,
    places_for,
)
from wmtp_jax.decoding.rows import Rows
from wmtp_jax.decoding.sampler import Controls

KEPT_PLACES = 4096  # of the last prompts' caches together, or one that is longer


class Prefill:
    """What the samples of one request share.

    Attributes:
      waiting: samples that still have to begin; then the cache is let go.
      logprobs, top: of the prompt, if the request asks for them.
    """

    def __init__(self, request: Request) -> None:
        self.request, self.waiting = request, request.samples
        self.cache: Cache | None = None
        self.logprobs: tuple[float | None, ...] | None = None
        self.top: tuple[Top, ...] = ()


class Prompts:
    """The passes over prompts."""

    def __init__(self, model: Loaded, programs: Programs) -> None:
        self.model, self.programs = model, programs
        self._kept: deque[tuple[tuple[int, ...], Cache]] = deque()

    def read(self, prefill: Prefill) -> Cache:
        """The cache of the prompt without its last token, which a row begins with."""
        cache = prefill.cache
        if cache is None:
            cache = self._pass(prefill)
        prefill.waiting -= 1
        prefill.cache = cache if prefill.waiting else None
        return cache

    def first_row(self, sample: Any) -> Rows:
        """The row that a sample begins with, without its cache."""
        request, sampling = sample.request, sample.request.sampling
        key = jax.random.fold_in(jax.random.key(sampling.seed), sample.number)

        def one(x: Any, dtype: Any) -> np.ndarray:
            return np.asarray([x], dtype)

        return Rows(
            cache=(),
            last_B=one(request.prompt[-1], np.int32),
            length_B=one(len(request.prompt) - 1, np.int32),
            left_B=one(sample.left, np.int32),
            ignore_B=one(sampling.ignore_eos, bool),
            controls=Controls(
                temperature_R=one(sampling.temperature, np.float32),
                top_k_R=one(min(sampling.top_k, self.model.cfg.vocab_size), np.int32),
                top_p_R=one(sampling.top_p, np.float32),
                min_p_R=one(sampling.min_p, np.float32),
                key_R2=np.asarray(jax.random.key_data(key))[None],
            ),
        )

    def _pass(self, prefill: Prefill) -> Cache:
        request, model = prefill.request, self.model
        tokens = request.prompt[:-1]
        told = request.echo and request.logprobs is not None
        start, cache = (0, self._empty(tokens)) if told else self._begun(tokens)
        found: list[tuple[np.ndarray, ...]] = []
        while start < len(tokens):
            block = block_for(len(tokens) - start)
            part = tokens[start : start + block]
            padded = np.zeros((1, block), np.int32)
            padded[0, : len(part)] = part
            hidden_DT, cache = self.programs.prefill(
                model.params, cache, padded, np.asarray([start], np.int32)
            )
            if told:
                found.append(self._score(request, hidden_DT, start, len(part)))
            start += len(part)
        if told:
            self._note(prefill, found, request.logprobs or 0)
        self._keep(tokens, cache)
        return cache

    def _keep(self, tokens: tuple[int, ...], cache: Cache) -> None:
        """For prompts to come; the oldest go, so that long ones take no more memory."""
        if tokens in [known for known, _ in self._kept]:
            return
        self._kept.append((tokens, cache))
        places = [decoder.num_places(kept) for _, kept in self._kept]
        while len(places) > 1 and sum(places) > KEPT_PLACES:
            self._kept.popleft()
            places.pop(0)

    def _empty(self, tokens: Sequence[int]) -> Cache:
        model, places = self.model, places_for(len(tokens))
        layers = num_layers(model)
        return decoder.empty_cache(model.cfg, layers, 1, places, model.dtype)

    def _begun(self, tokens: Sequence[int]) -> tuple[int, Cache]:
        """How many tokens an earlier prompt has read already, and a cache with them.

        All or whole blocks, in a cache of the same size: as it would be computed.
        """
        places, start, found = places_for(len(tokens)), 0, None
        for known, kept in self._kept:
            pairs = zip(known, tokens, strict=False)
            alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            if known != tokens:
                alike -= alike % LONGEST_BLOCK
            if alike > start and decoder.num_places(kept) == places:
                start, found = alike, kept
        if found is None:
            return 0, self._empty(tokens)
        return start, self.programs.fit(found, places=places)

    def _score(
        self, request: Request, hidden_DT: jax.Array, start: int, length: int
    ) -> tuple[np.ndarray, ...]:
        next_T = np.zeros(hidden_DT.shape[1], np.int32)
        next_T[:length] = request.prompt[start + 1 : start + 1 + length]
        most = MOST_TOP if (request.logprobs or 0) > 1 else 1
        told = self.programs.score(
            self.model.params, hidden_DT, jnp.asarray(next_T), most=most
        )
        return tuple(np.asarray(x)[:length] for x in told)

    def _note(
        self, prefill: Prefill, found: list[tuple[np.ndarray, ...]], most: int
    ) -> None:
        """Nothing stands before the first token, which therefore has no probability."""
        own, ids, values = (
            [y for part in found for y in part[i].tolist()] for i in range(3)
        )
        prefill.logprobs = (None, *own)
        prefill.top = ((), *(
            tuple(zip(a[:most], b[:most], strict=True))
            for a, b in zip(ids, values, strict=True)
        ))  # fmt: skip
