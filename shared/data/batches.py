"""Documents -> rows -> batches, and a position in them that can be saved.

Rows of training have one fixed shape, so that a step compiles once; rows of evaluation
hold one document each and come in a few lengths.

Axes: A micro-batches of a step, B rows, L positions, S documents packed in a row.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from shared.data.documents import Document, Split
from shared.data.packing import (
    MIN_DOCUMENT,
    NOISE,
    PERMUTATION,
    documents_per_row,
    epoch_order,
    generator,
    pack_epoch,
)

# Signals by name: per document, a number of each token `[T]` or of the whole `[1]`.
Columns = Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows and what belongs to their tokens; arrays `[B, L]`, or `[A, B, L]`.

    Attributes:
      tokens_BL: int32 token ids; 0 on padding, which only `document_BL` tells.
      document_BL: int32, 1 to S in each row in order; 0 is padding.
      positions_BL: int32, from 0 in each document; 0 on padding.
      target_BL: bool, True where the token is in T(d).
      signals: column of `shared/signals/columns.py` -> float32; 0 on padding. A number
        of a whole document stands on each of its positions.
      noise_BL: float32, standard normal, for the control `random`.
      permutation_BL: int32, columns of the row, for the control `shuffle`: permuted
        within T(d), the identity elsewhere.
      num_documents: S, which no row exceeds; static.
    """

    tokens_BL: np.ndarray
    document_BL: np.ndarray
    positions_BL: np.ndarray
    target_BL: np.ndarray
    signals: dict[str, np.ndarray]
    noise_BL: np.ndarray
    permutation_BL: np.ndarray
    num_documents: int

    def changed(self, change: Callable[[Any], Any]) -> "Batch":
        """The same with every array changed."""
        kept = ("signals", "num_documents")
        arrays = {n: change(x) for n, x in vars(self).items() if n not in kept}
        signals = {name: change(x) for name, x in self.signals.items()}
        return replace(self, **arrays, signals=signals)


def micro_batches(batches: Batch, parts: int = 1) -> list[Batch]:
    """The micro-batches `[B / parts, L]` of a step's `[A, B, L]`, in order."""
    A, B, _ = batches.tokens_BL.shape
    rows = B // parts
    return [
        batches.changed(lambda x: x[a, cut : cut + rows])  # noqa: B023
        for a in range(A)
        for cut in range(0, B, rows)
    ]


def control_noise(document: Document, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The noise of the controls, the same whenever and wherever the document comes.

    Philox is keyed by the seed and the first 8 bytes of the id's sha256; noise and
    permutation are two streams of that key.

    Returns:
      Standard normal numbers `[T]`, float32; and a permutation `[T]`, int32, that moves
      targets among targets and leaves other tokens where they are.
    """
    digest = hashlib.sha256(document.id.encode()).digest()
    number = int.from_bytes(digest[:8], "little")
    length = len(document.tokens)
    noise_T = generator(seed, number, NOISE).standard_normal(length, np.float32)
    permutation_T = np.arange(length, dtype=np.int32)
    targets = np.flatnonzero(document.target)
    shuffled = generator(seed, number, PERMUTATION).permutation(targets)
    permutation_T[targets] = shuffled
    return noise_T, permutation_T


def make_batch(
    rows: Sequence[Sequence[int]],
    split: Split,
    columns: Columns,
    *,
    shape: tuple[int, ...],
    num_documents: int,
    seed: int | None,
) -> Batch:
    """Fills arrays `[..., L]` of that shape, row after row; others stay empty.

    Args:
      columns: what the batch carries of each document beside its tokens.
      seed: of the controls; without one there is no noise, and nothing is permuted.
    """
    flat = math.prod(shape[:-1]), shape[-1]
    integers = ("tokens_BL", "document_BL", "positions_BL", "permutation_BL")
    floats = ("noise_BL", *columns)
    arrays = {name: np.zeros(flat, np.int32) for name in integers}
    arrays |= {name: np.zeros(flat, np.float32) for name in floats}
    arrays["target_BL"] = np.zeros(flat, bool)
    arrays["permutation_BL"][:] = np.arange(flat[1])
    for b, row in enumerate(rows):
        start = 0
        for number, index in enumerate(row, 1):
            document = split.documents[index]
            end = start + len(document.tokens)
            filled: dict[str, Any] = {
                "tokens_BL": document.tokens,
                "document_BL": number,
                "positions_BL": np.arange(end - start),
                "target_BL": document.target,
                **{name: column[index] for name, column in columns.items()},
            }
            if seed is not None:
                noise_T, permutation_T = control_noise(document, seed)
                filled |= {"noise_BL": noise_T, "permutation_BL": start + permutation_T}
            for name, values in filled.items():
                arrays[name][b, start:end] = values
            start = end
    shaped = {name: array.reshape(shape) for name, array in arrays.items()}
    signals = {name: shaped.pop(name) for name in columns}
    return Batch(**shaped, signals=signals, num_documents=num_documents)


@dataclass(eq=False)
class TrainBatches:
    """Training batches `[A, B, L]` for ever, epoch after epoch.

    The rows of an epoch and their order depend on (seed, epoch) alone: a step takes the
    next A * B of them, however that product is split. The last step of an epoch is
    filled with empty rows, so each epoch holds each document exactly once.
    """

    split: Split
    columns: Columns
    _: KW_ONLY
    max_length: int
    batch_size: int
    accumulation: int
    layout: str
    seed: int

    def __post_init__(self) -> None:
        self.num_documents = documents_per_row(self.max_length, self.layout)
        self._rows_per_step = self.accumulation * self.batch_size
        self._lengths = [len(document.tokens) for document in self.split.documents]
        self._epoch = self._step = 0
        self._rows = self.epoch_rows(0)
        self._own = slice(0, self.batch_size)
        self._last: list[list[int]] = []

    def epoch_rows(self, epoch: int) -> list[list[int]]:
        """Document indices of the rows of an epoch."""
        return pack_epoch(
            self._lengths,
            max_length=self.max_length,
            max_documents=self.num_documents,
            order=epoch_order(len(self._lengths), self.seed, epoch),
        )

    def steps_per_epoch(self, epoch: int) -> int:
        """Steps of an epoch; epochs may differ by how well their order packs."""
        rows = self._rows if epoch == self._epoch else self.epoch_rows(epoch)
        return math.ceil(len(rows) / self._rows_per_step)

    def state(self) -> dict[str, int]:
        """Position of the next batch, as JSON: its epoch, and its step in the epoch."""
        return {"epoch": self._epoch, "step": self._step}

    def restore(self, state: dict[str, int]) -> None:
        """Goes to a position that `state` gave.

        Raises:
          ValueError: if there is no such position with this data and these settings.
        """
        epoch, step = state.get("epoch", -1), state.get("step", -1)
        if epoch < 0 or not 0 <= step < self.steps_per_epoch(epoch):
            raise ValueError(
                "a position in the data must be an epoch >= 0 and one of its steps, "
                f"got {state}"
            )
        if epoch != self._epoch:
            self._rows = self.epoch_rows(epoch)
        self._epoch, self._step = epoch, step

    def ids_at(self, state: dict[str, int]) -> list[str]:
        """The ids of the examples in the batch at a position that `state` gave."""
        epoch, start = state["epoch"], state["step"] * self._rows_per_step
        rows = self._rows if epoch == self._epoch else self.epoch_rows(epoch)
        chosen = rows[start : start + self._rows_per_step]
        return [self.split.documents[index].id for row in chosen for index in row]

    def __iter__(self) -> Iterator[Batch]:
        return self

    def keep_rows(self, start: int, stop: int) -> None:
        """Leaves the other rows of every micro-batch to other processes."""
        self._own = slice(start, stop)

    def outline(self) -> Batch:
        """All rows of the step that came last, without signals and noise."""
        shape = (self.accumulation, self.batch_size, self.max_length)
        return self._batch(self._last, shape, {}, None)

    def __next__(self) -> Batch:
        start = self._step * self._rows_per_step
        self._last = self._rows[start : start + self._rows_per_step]
        whole = self._last + [[]] * (self._rows_per_step - len(self._last))
        size, own = self.batch_size, range(self.batch_size)[self._own]
        rows = [whole[a * size + b] for a in range(self.accumulation) for b in own]
        shape = (self.accumulation, len(own), self.max_length)
        batch = self._batch(rows, shape, self.columns, self.seed)
        self._step += 1
        if self._step == self.steps_per_epoch(self._epoch):
            self._epoch, self._step = self._epoch + 1, 0
            self._rows = self.epoch_rows(self._epoch)
        return batch

    def _batch(
        self,
        rows: list[list[int]],
        shape: tuple[int, ...],
        columns: Columns,
        seed: int | None,
    ) -> Batch:
        return make_batch(
            rows,
            self.split,
            columns,
            shape=shape,
            num_documents=self.num_documents,
            seed=seed,
        )


def eval_batches(
    split: Split, columns: Columns, *, max_length: int, batch_size: int, seed: int
) -> list[Batch]:
    """Every document once, one a row, in rows of a quarter, a half or all of L.

    Returns:
      Batches `[B, L_bucket]` with S = 1, short ones first, documents in their order;
      empty rows fill the last batch of a length.
    """
    return [
        make_batch(
            [[index] for index in indices],
            split,
            columns,
            shape=(batch_size, length),
            num_documents=1,
            seed=seed,
        )
        for length, indices in eval_rows(split, max_length, batch_size)
    ]


def eval_rows(
    split: Split, max_length: int, batch_size: int
) -> list[tuple[int, list[int]]]:
    """Row length of each batch of `eval_batches`, and which document each row holds."""
    buckets = sorted({max(MIN_DOCUMENT, math.ceil(max_length / n)) for n in (4, 2, 1)})
    lengths = np.array([len(document.tokens) for document in split.documents])
    found = []
    for shorter, length in pairwise([0, *buckets]):
        chosen = np.flatnonzero((lengths > shorter) & (lengths <= length)).tolist()
        for start in range(0, len(chosen), batch_size):
            found.append((length, chosen[start : start + batch_size]))
    return found


def unigram_entropy(split: Split, vocab_size: int) -> float:
    """Entropy of how often each token is a target of the split, in nats.

        -sum over tokens of p log p, with p the token's share of the targets

    What a model without any context cannot do better than; 0 without targets.
    """
    targets = np.concatenate([d.tokens[d.target] for d in split.documents])
    count = np.bincount(targets, minlength=vocab_size)
    p = count[count > 0] / max(1, targets.size)
    return float(-np.sum(p * np.log(p))) + 0.0
