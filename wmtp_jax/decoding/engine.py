"""The engine: requests in, pieces of text out, many rows at a time.

    engine = Engine(load("runs/x", MachineConfig()))
    number = engine.submit(Request(prompt=(1, 2, 3)))
    while engine.busy:
        for piece in engine.step():
            ...

A request waits until a row is free, joins the rows that run, and leaves when it ends.
How many rows there are, and how many places the cache has, follows what is needed, in
doublings, since each size is a program of its own.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shared.data.tokenizer import Tokenizer
from shared.decoding.acceptance import Acceptance
from shared.decoding.policy import SIZES
from shared.decoding.requests import MOST_TOP, Piece, Request
from wmtp_jax.decoding import decoder
from wmtp_jax.decoding.drafting import Drafting
from wmtp_jax.decoding.loaded import Loaded, without_heads
from wmtp_jax.decoding.programs import (
    LEAST_PLACES,
    Programs,
    bytes_of_place,
    empty_rows,
    make_programs,
    places_for,
)
from wmtp_jax.decoding.prompts import Prefill, Prompts
from wmtp_jax.decoding.rows import Asked, Gained, Rows
from wmtp_jax.decoding.samples import Sample

MOST_CACHE = 2 * 2**30  # bytes; beyond it fewer rows run at once


class Engine:
    """Rows that are decoded together, and the requests that wait for one.

    Attributes:
      acceptance: of all drafts so far.
    """

    def __init__(
        self,
        model: Loaded,
        *,
        rows: int = 8,
        drafter: str = "auto",
        programs: Programs | None = None,
        cache_bytes: int = MOST_CACHE,
    ) -> None:
        """`rows` at most run at once.

        Args:
          programs: those of an earlier engine of the same shapes.
          cache_bytes: of all rows' keys and values, which prompts may take; for a long
            prompt, whose places every row has, fewer rows run.

        Raises:
          ValueError: if there is no such drafter, or the model has no heads for it.
        """
        self.drafting = Drafting(drafter, model.heads.count - 1)
        if not self.drafting.uses_heads:
            model = without_heads(model)
        self.model, self.most_rows = model, rows
        self._most_places = cache_bytes // bytes_of_place(model)
        self.acceptance = Acceptance()
        self.programs = make_programs(model) if programs is None else programs
        self.prompts = Prompts(model, self.programs)
        self._waiting: deque[tuple[int, int, Request, Prefill]] = deque()
        self._running: list[Sample | None] = []  # by row
        self._rows: Rows | None = None
        self._left: np.ndarray = np.zeros(0, np.int32)
        self._cancelled: list[Piece] = []
        self._count = 0
        self._seen: set[Any] = set()
        token_map = model.token_map
        self._token_map = None if token_map is None else jnp.asarray(token_map)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens that a prompt and its sample can have together."""
        return self.model.cfg.max_positions

    @property
    def has_room(self) -> bool:
        """Whether another sample would begin at the next step."""
        return len(self._active()) + len(self._waiting) < self.most_rows

    @property
    def busy(self) -> bool:
        """Whether anything runs, waits or is still to be told."""
        return bool(self._waiting or self._cancelled or self._active())

    def submit(self, request: Request) -> int:
        """Takes a request; its number is in each of its pieces.

        Raises:
          ValueError: if the prompt is empty, too long, or holds ids of no token.
        """
        length, most = len(request.prompt), self.max_length
        if not 1 <= length <= most:
            raise ValueError(
                f"the prompt must have 1 to {most} tokens for this model, got {length}"
            )
        V = self.model.cfg.vocab_size
        if not all(0 <= token < V for token in request.prompt):
            raise ValueError(f"the prompt's ids must be in [0, {V}), got others")
        if request.samples < 1:
            raise ValueError(f"samples must be >= 1, got {request.samples}")
        if not 0 <= (request.logprobs or 0) <= MOST_TOP:
            raise ValueError(
                f"logprobs must be at most {MOST_TOP}, got {request.logprobs}"
            )
        number, self._count = self._count, self._count + 1
        prefill = Prefill(request)
        for sample in range(request.samples):
            self._waiting.append((number, sample, request, prefill))
        return number

    def cancel(self, number: int) -> None:
        """Ends a request wherever it is; a piece of each sample that ran says so."""
        for waits in [w for w in self._waiting if w[0] == number]:
            self._waiting.remove(waits)
            self._tell_cancelled(number, waits[1])
        for row, sample in enumerate(self._running):
            if sample is not None and sample.request_number == number:
                self._free(row)
                self._tell_cancelled(number, sample.number)

    def cancel_all(self) -> None:
        """Ends all requests, and tells of none of them."""
        numbers = {waits[0] for waits in self._waiting}
        numbers |= {sample.request_number for sample in self._active()}
        for number in numbers:
            self.cancel(number)
        self._cancelled.clear()

    def step(self) -> list[Piece]:
        """Moves every row on by a few tokens; what the samples have gained."""
        pieces, self._cancelled = self._cancelled, []
        pieces += self._admit()
        if not (active := self._active()):
            return pieces
        asked = self._asked(active)
        size, drafts = self.drafting.plan(self._running, asked.heads)
        rows, count = len(self._running), 1
        if size == 1:
            most = self.drafting.until_next_look(rows, asked.heads)
            count = min(most, max(sample.left for sample in active))
        self._fit(max(sample.length for sample in active) + max(size, count))
        gained, seconds = self._run(asked, size, count, drafts)
        passes = count if count == 1 else int(gained.count_B.max())
        if seconds is not None:
            self.drafting.measured(rows, size, asked.heads, seconds / passes)
        for row, sample in enumerate(self._running):
            if sample is not None:
                drafted = len(drafts.get(row, ((), ""))[0])
                pieces += self._take(row, sample, gained, drafted, count > 1)
        return pieces

    def calibrate(self, places: int = LEAST_PLACES) -> dict[int, float]:
        """Compiles and times passes of each size over one row, at rest.

        Returns:
          Seconds by tokens of the pass.
        """
        heads = self.drafting.uses_heads
        rows, found = empty_rows(self.model, 1, places), {}
        for size in SIZES if self.drafting.name != "none" else (1,):
            for with_heads in {False, heads}:
                asked = replace(self._plain(), heads=with_heads)
                draft_BJ = jnp.full((1, size - 1), -1, jnp.int32)
                times = []
                for _ in range(4):  # the first compiles
                    start = perf_counter()
                    rows, gained = self.programs.advance(
                        self.model.params, rows, draft_BJ, self._token_map, asked=asked
                    )
                    jax.block_until_ready(gained)
                    times.append(perf_counter() - start)
                self._seen.add((1, places, size, asked, False))
                found.setdefault(size, min(times[1:]))
                self.drafting.measured(1, size, with_heads, min(times[1:]))
        return found

    @property
    def _places(self) -> int:
        """Of the cache."""
        return 0 if self._rows is None else decoder.num_places(self._rows.cache)

    def _active(self) -> list[Sample]:
        return [sample for sample in self._running if sample is not None]

    def _plain(self) -> Asked:
        return Asked(cfg=self.model.cfg, ends=self.model.ends)

    def _asked(self, active: list[Sample]) -> Asked:
        told = [s.request.logprobs for s in active if s.request.logprobs is not None]
        return replace(
            self._plain(),
            most=(MOST_TOP if max(told) > 1 else 1) if told else None,
            heads=self.drafting.wants_heads(len(self._running)),
        )

    def _run(
        self, asked: Asked, size: int, count: int, drafts: dict[int, Any]
    ) -> tuple[Gained, float | None]:
        """One call; no seconds where it had to be compiled."""
        assert self._rows is not None
        rows = replace(self._rows, left_B=jnp.asarray(self._left))
        B = len(self._running)
        key = (B, self._places, size, asked, count > 1)
        start = perf_counter()
        if count > 1:
            rows, gained = self.programs.steps(
                self.model.params, rows, count, asked=asked
            )
        else:
            draft_BJ = np.full((B, size - 1), -1, np.int32)
            for row, (tokens, _) in drafts.items():
                draft_BJ[row, : len(tokens)] = tokens
            rows, gained = self.programs.advance(
                self.model.params, rows, draft_BJ, self._token_map, asked=asked
            )
        gained = jax.device_get(gained)
        seconds = perf_counter() - start
        self._rows = rows
        is_new = key not in self._seen
        self._seen.add(key)
        return gained, None if is_new else seconds

    def _take(
        self, row: int, sample: Sample, gained: Gained, drafted: int, one_by_one: bool
    ) -> Iterator[Piece]:
        """What one row has gained, told; a row whose sample ends is free again."""
        tokens = gained.token_BT[row, : int(gained.count_B[row])].tolist()
        for part in [[x] for x in tokens] if one_by_one else [tokens]:
            self.acceptance.count(drafted, len(part))
        self.drafting.learn(len(self._running), sample, tokens)
        sample.gain(gained, row, tokens, self.model.ends)
        self._left[row] = sample.left
        if (piece := sample.tell()) is not None:
            yield piece
        if sample.finish:
            self._free(row)

    def _free(self, row: int) -> None:
        self._running[row] = None
        self._left[row] = 0

    def _tell_cancelled(self, number: int, sample: int) -> None:
        piece = Piece(request=number, sample=sample, finish="cancelled")
        self._cancelled.append(piece)

    def _admit(self) -> list[Piece]:
        """Gives waiting samples a row, as long as there are any."""
        active = len(self._active())
        if active <= (most := self._rows_for_next()):  # else some have to end first
            self._resize(min(active + len(self._waiting), most), most)
        pieces = []
        while self._waiting and self._is_room():
            number, i, request, prefill = self._waiting.popleft()
            cache = self.prompts.read(prefill)
            sample = Sample(number, i, request, self.model, self.max_length)
            sample.tell_prompt(prefill)
            if sample.left <= 0:
                sample.finish = "length"
                pieces.append(sample.tell())
                continue
            row = self._running.index(None)
            self._make_room(decoder.num_places(cache))
            what = self.prompts.first_row(sample)
            self._rows = self.programs.put(self._rows, cache, row, what)
            self._running[row], self._left[row] = sample, sample.left
        return [piece for piece in pieces if piece is not None]

    def _rows_for_next(self) -> int:
        """How many rows may run with the next sample that waits."""
        if not self._waiting:
            return self.most_rows
        places = places_for(len(self._waiting[0][2].prompt))
        if self._active():
            places = max(places, self._places)
        fit = max(1, self._most_places // places)
        return min(self.most_rows, 1 << (fit.bit_length() - 1))

    def _is_room(self) -> bool:
        """For the next sample that waits; one that writes nothing needs none."""
        if self._waiting[0][2].sampling.max_tokens == 0:
            return True
        return None in self._running and len(self._running) <= self._rows_for_next()

    def _resize(self, wanted: int, most: int) -> None:
        """As many rows as are wanted, in doublings; fewer once a quarter would do.

        When nothing runs, the cache begins small again.

        Args:
          most: rows that there may be.
        """
        B, size = len(self._running), 1
        while size < wanted:
            size *= 2
        size = min(size, most)
        kept = [row for row, sample in enumerate(self._running) if sample is not None]
        places = self._places
        if wanted and not kept:
            places = places_for(len(self._waiting[0][2].prompt))
        fits = B == size or (size < B <= most and 4 * size > B)
        if wanted == 0 or (fits and places == self._places):
            return
        if not kept:
            self._rows = None  # gone before the next one comes
            self._rows = empty_rows(self.model, size, places)
        else:
            index_B = np.asarray([*kept, *[0] * (size - len(kept))], np.int32)
            self._rows = self.programs.take(self._rows, index_B)
        left = [int(self._left[row]) for row in kept]
        self._running = [self._running[row] for row in kept]
        self._running += [None] * (size - len(kept))
        self._left = np.asarray([*left, *[0] * (size - len(kept))], np.int32)

    def _make_room(self, places: int) -> None:
        """So many places in the cache, or more."""
        if places > self._places:
            self._rows = self.programs.resize(self._rows, places=places)

    def _fit(self, length: int) -> None:
        """Places for so many tokens of the longest row, and no more than it needs."""
        if (places := places_for(length)) != self._places:
            self._rows = self.programs.resize(self._rows, places=places)
