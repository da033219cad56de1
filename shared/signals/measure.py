"""A signal of a whole split: measured once, and an interrupted pass goes on.

A big split is cut into parts of some minutes. Each is saved when it is measured, beside
the file of the whole signal, which they are joined into at the end:

    signals/KEY.safetensors
    signals/KEY.parts/*.safetensors     while the pass is not at its end

Runs that fill one cache at the same time write the same files, and the first at the end
removes the parts: the other measures again what it misses.
"""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared.config.fields import Config
from shared.data.documents import Document, Split
from shared.data.packing import pack_tightly
from shared.signals import cache as signals
from shared.signals.passes import Answer, OfDocument, over_documents
from shared.tracking.console import Progress

log = logging.getLogger("wmtp")
BATCHES = 64  # of a part, about
Measured = tuple[np.ndarray, ...]  # per document


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a frozen model is asked of every document.

    Attributes:
      what: `ref_nll` or `reward`, for people.
      make_answer: reads the weights; called when something is left to measure.
      of_document: takes what is kept of the answer.
      length_of: how many numbers of a document that is.
    """

    what: str
    make_answer: Callable[[], Answer]
    of_document: OfDocument
    length_of: Callable[[Document], int]

    def title(self, split: Split) -> str:
        return f"{self.what} of {split.name}"

    def lengths(self, split: Split) -> list[int]:
        return [self.length_of(document) for document in split.documents]


@dataclass(frozen=True)
class Part:
    """Consecutive documents of a split; `rows` are theirs, `num_batches` hold them."""

    key: str
    split: Split
    rows: list[list[int]]
    num_batches: int


def find_signal(asked: Asked, cfg: Config, split: Split, key: str) -> Measured:
    """The signal of every document, from the cache or measured and put there.

    Args:
      cfg: of the run: its rows `[B, L]`, its output_dir.
      key: what `signal_key` gave for the signal. The size of a batch may be no part of
        it: it decides rounding alone.

    Raises:
      ValueError: if a number is not finite, or the cache cannot be written.
    """
    folder = Path(cfg.output_dir) / "signals"
    beside = folder / f"{key}.parts"
    found = signals.load(folder, key, asked.lengths(split))
    if found is None:
        found = _measure(asked, cfg, split, key, beside)
        signals.save(folder, key, found, asked.what)
    else:
        log.info("%s of %s: read from the cache", asked.what, split.name)
    shutil.rmtree(beside, ignore_errors=True)
    return found


def _measure(
    asked: Asked, cfg: Config, split: Split, key: str, beside: Path
) -> Measured:
    """Measures what no interrupted pass has left."""
    parts = cut(split, cfg, key)
    found = _read(asked, split, parts, beside)
    try:
        if len(found) < len(parts):
            _fill(found, asked, cfg, split, parts, beside)
    except KeyboardInterrupt:
        if found:
            log.warning(
                "%s: stopped; what is measured of %d documents is kept, and the same "
                "command goes on",
                asked.title(split),
                _count(found),
            )
        raise
    return tuple(x for part in parts for x in found[part.key])


def _fill(
    found: dict[str, Measured],
    asked: Asked,
    cfg: Config,
    split: Split,
    parts: list[Part],
    beside: Path,
) -> None:
    """Measures the missing parts, and saves each if the split has several."""
    # Before the bar: a reference may have to be trained first.
    answer = asked.make_answer()
    total = sum(part.num_batches for part in parts)
    done = sum(part.num_batches for part in parts if part.key in found)
    every = max(20, total // 50)
    bar = Progress(total, asked.title(split), start=done, every=every, unit="batch")

    def finished() -> None:
        nonlocal done
        done += 1
        bar.update(done)

    with bar:
        for part in parts:
            if part.key in found:
                continue
            measured = over_documents(
                answer, asked.of_document, cfg, part.split, part.rows, finished
            )
            if len(parts) > 1:
                _save(beside, part.key, measured, asked.what)
            found[part.key] = measured


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
                signals.signal_key(signal=key, tokens=tokens, batch=B, part=len(parts)),
                replace(split, documents=tuple(split.documents[i] for i in index)),
                rows,
                num_batches=-(-len(rows) // B),
            )
        )
    return parts


def _read(
    asked: Asked, split: Split, parts: list[Part], beside: Path
) -> dict[str, Measured]:
    """Parts that an interrupted pass has left, by key."""
    found = {}
    for part in parts:
        of_part = signals.load(beside, part.key, asked.lengths(part.split))
        if of_part is not None:
            found[part.key] = of_part
    if found:
        log.info(
            "%s: %d of %d documents are there from an interrupted pass",
            asked.title(split),
            _count(found),
            len(split.documents),
        )
    return found


def _count(found: dict[str, Measured]) -> int:
    """Documents of all parts."""
    return sum(map(len, found.values()))


def _save(beside: Path, key: str, measured: Measured, what: str) -> None:
    try:
        signals.save(beside, key, measured, what)
    except ValueError:
        # Maybe another run has just come to its end and removed the folder. If that is
        # not the reason, the second try says what is.
        signals.save(beside, key, measured, what)
