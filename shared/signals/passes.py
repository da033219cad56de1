"""A pass of a frozen model over a split: batches to ask, answers to keep.

    for batch in wanted:
        wanted.keep(answer(batch))

A big split is cut into parts of some minutes. Each is saved when it is measured, beside
the file of the whole column, which they are joined into at the end:

    signals/KEY.safetensors
    signals/KEY.parts/*.safetensors     while the pass is not at its end

Runs that fill one cache at the same time write the same files, and the first at the end
removes the parts: the other measures again what it misses.

Axes: B rows, L positions, T tokens of a document.
"""

import logging
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shared.config.fields import Config
from shared.data.batches import Batch, Columns, make_batch
from shared.data.documents import Document, Split
from shared.data.packing import MIN_DOCUMENT, pack_tightly
from shared.data.tokenizer import Tokenizer
from shared.signals import cache
from shared.tracking.console import Progress

log = logging.getLogger("wmtp")
BATCHES = 64  # of a part, about
Measured = tuple[np.ndarray, ...]  # per document
# What is kept of the answer `[T]` for a document's tokens.
OfDocument = Callable[[np.ndarray, Document, "FrozenModel"], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class FrozenModel:
    """A frozen model before its weights are read, and what it is asked about.

    Attributes:
      cfg: its own model, on the data and the machine of the run.
      tokenizer: its own.
      source: one sentence for log and summary.
      identity: JSON values that decide its weights: a digest, or how it is trained.
      splits: train and validation, in its own tokens.
      pad_id: of a reward model: its score is read at the last other token.
      folder: where its weights lie; None if it is trained first.
      run: the config of the run that `folder` is; None for a Hugging Face folder.
      step: which checkpoint of the run, if one was named.
    """

    cfg: Config
    tokenizer: Tokenizer
    source: str
    identity: dict[str, object]
    splits: dict[str, Split]
    pad_id: int | None = None
    folder: Path | None = None
    run: Config | None = None
    step: int | None = None


@dataclass(frozen=True)
class Part:
    """Consecutive documents of a split, and the rows that they are asked in."""

    key: str
    split: Split
    rows: list[list[int]]
    num_batches: int


@dataclass(kw_only=True)
class Pass:
    """One column of one split: in the cache, or to be measured batch by batch.

    Attributes:
      name: of the column.
      model: which is asked.
      split: whose documents it is asked about.
      key: what `signal_key` gave. The size of a batch may be no part of it: it decides
        rounding alone.
      cfg: of the run: its rows `[B, L]`, its output_dir.
      length_of: how many numbers of a document are kept.
      of_document: takes them from the answer.
      values: of every document, once they are known.
      writes: whether the cache is filled; not so beside a process that fills it.
    """

    name: str
    model: FrozenModel
    split: Split
    key: str
    cfg: Config
    length_of: Callable[[Document], int]
    of_document: OfDocument
    values: Measured | None = None
    writes: bool = True
    _answers: deque[Any] = field(default_factory=deque)
    _parts: dict[str, Measured] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.name} of {self.split.name}"

    @cached_property
    def parts(self) -> list[Part]:
        """The pieces in which it is measured and saved."""
        return cut(self.split, self.cfg, self.key)

    def read(self) -> None:
        """Takes what is in the cache, or in parts of it that a pass has left there.

        Raises:
          ValueError: if the cache cannot be written.
        """
        self.values = cache.load(
            self._folder, self.key, self.name, self._lengths(self.split)
        )
        if self.values is not None:
            log.info("%s: read from the cache", self.title)
            if self.writes:
                shutil.rmtree(self._beside, ignore_errors=True)
            return
        for part in self.parts:
            lengths = self._lengths(part.split)
            found = cache.load(self._beside, part.key, self.name, lengths)
            if found is not None:
                self._parts[part.key] = found
        if self._parts:
            log.info(
                "%s: %d of %d documents are there from an interrupted pass",
                self.title,
                self._count(),
                len(self.split.documents),
            )
        if len(self._parts) == len(self.parts):
            self._join()

    def follow(self, measures: bool) -> None:
        """Takes it as another process has found it, which measures it or does not.

        Raises:
          ValueError: if the cache has nothing here that it has there.
        """
        if measures:
            self.values = None
        elif self.values is None:
            raise ValueError(
                "output_dir must be a folder that all processes share, got a cache "
                f"without {self.title} in {self._folder}"
            )

    def __iter__(self) -> Iterator[Batch]:
        """The batches that are left, to be answered in turn by `keep`.

        Raises:
          ValueError: if a number is not finite, or the cache cannot be written.
        """
        parts = self.parts
        total = sum(part.num_batches for part in parts)
        done = sum(part.num_batches for part in parts if part.key in self._parts)
        every = max(20, total // 50)
        try:
            with Progress(
                total, self.title, start=done, every=every, unit="batch"
            ) as bar:
                for part in parts:
                    if part.key in self._parts:
                        continue
                    measured = yield from self._measure(part, bar, done)
                    done += part.num_batches
                    if len(parts) > 1:
                        self._save_part(part.key, measured)
                    self._parts[part.key] = measured
        except (GeneratorExit, KeyboardInterrupt):  # in the trainer, or waiting here
            if self._parts:
                log.warning(
                    "%s: stopped; what is measured of %d documents is kept, and the "
                    "same command goes on",
                    self.title,
                    self._count(),
                )
            raise
        self._join()

    def keep(self, answer: Any) -> None:
        """Takes a number for each position `[B, L]`; it may still be being computed."""
        self._answers.append(answer)

    def _measure(
        self, part: Part, bar: Progress, done: int
    ) -> Generator[Batch, None, Measured]:
        """Asks for one part, and keeps what is wanted of each document."""
        found: list[np.ndarray] = [np.zeros(0)] * len(part.split.documents)
        for batch in ask(part.rows, part.split, self.cfg, self._answers, found):
            yield batch
            done += 1
            bar.update(done)
        pairs = zip(found, part.split.documents, strict=True)
        return tuple(self.of_document(x_T, d, self.model) for x_T, d in pairs)

    def _join(self) -> None:
        values = tuple(x for part in self.parts for x in self._parts[part.key])
        if self.writes:
            cache.save(self._folder, self.key, self.name, values)
            shutil.rmtree(self._beside, ignore_errors=True)
        self.values = values

    def _save_part(self, key: str, measured: Measured) -> None:
        if not self.writes:
            return
        try:
            cache.save(self._beside, key, self.name, measured)
        except ValueError:
            # Maybe another run has just come to its end and removed the folder. If that
            # is not the reason, the second try says what is.
            cache.save(self._beside, key, self.name, measured)

    @property
    def _folder(self) -> Path:
        return Path(self.cfg.output_dir) / "signals"

    @property
    def _beside(self) -> Path:
        return self._folder / f"{self.key}.parts"

    def _lengths(self, split: Split) -> list[int]:
        return [self.length_of(document) for document in split.documents]

    def _count(self) -> int:
        """Documents of all parts that are measured."""
        return sum(map(len, self._parts.values()))


def cut(split: Split, cfg: Config, key: str) -> list[Part]:
    """Consecutive documents of about as many tokens each, packed into rows.

    Nothing but the split and the shape of a batch decides where it is cut: parts of
    another shape are not taken for these.
    """
    lengths = np.array([len(document.tokens) for document in split.documents], np.int64)
    B, L = cfg.data.batch_size, cfg.data.max_length
    tokens = BATCHES * B * L
    total = max(1, int(lengths.sum()))
    number = (np.cumsum(lengths) - lengths) * -(-total // tokens) // total
    parts: list[Part] = []
    for index in np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(number)) + 1):
        rows = pack_tightly(lengths[index].tolist(), L)
        parts.append(
            Part(
                cache.signal_key(signal=key, tokens=tokens, batch=B, part=len(parts)),
                replace(split, documents=tuple(split.documents[i] for i in index)),
                rows,
                num_batches=-(-len(rows) // B),
            )
        )
    return parts


def ask(
    rows: Sequence[Sequence[int]],
    split: Split,
    cfg: Config,
    answers: deque[Any],
    found: list[np.ndarray],
) -> Iterator[Batch]:
    """Batches of these rows; the next is asked for before an answer is waited for.

    Args:
      rows: document indices of each row: every document of the split once.
      answers: which the caller puts each answer into.
      found: is filled with `answer_T` of each document.
    """
    waiting: deque[Sequence[Sequence[int]]] = deque()
    B = cfg.data.batch_size

    def take() -> None:
        answer_BL = np.asarray(answers.popleft(), np.float32)
        for row, answer_L in zip(waiting.popleft(), answer_BL, strict=False):
            start = 0
            for index in row:
                end = start + len(split.documents[index].tokens)
                found[index] = answer_L[start:end]
                start = end

    for start in range(0, len(rows), B):
        waiting.append(rows[start : start + B])
        yield rows_batch(waiting[-1], split, {}, cfg)
        if len(waiting) == 2:
            take()
    while waiting:
        take()


def rows_batch(
    rows: Sequence[Sequence[int]], split: Split, columns: Columns, cfg: Config
) -> Batch:
    """Rows `[B, L]` of the one shape of training; empty ones fill the last batch."""
    B, L = cfg.data.batch_size, cfg.data.max_length
    return make_batch(
        [*rows, *[[]] * (B - len(rows))],
        split,
        columns,
        shape=(B, L),
        num_documents=max(1, L // MIN_DOCUMENT),
        seed=None,
    )
