"""Passes over a whole split: a frozen model's answers, and a reference's training.

Axes: B rows, L positions, T tokens of a document.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from shared.config.fields import Config
from shared.data.batches import Batch, Columns, TrainBatches, make_batch
from shared.data.documents import Document, Split
from shared.data.packing import MIN_DOCUMENT
from shared.tracking.console import Progress

# A number for each position `[B, L]`, that NumPy can read; maybe still being computed.
Answer = Callable[[Batch], Any]
OfDocument = Callable[[np.ndarray, Document], np.ndarray]


def over_documents(
    answer: Answer,
    of_document: OfDocument,
    cfg: Config,
    split: Split,
    rows: Sequence[Sequence[int]],
    finished: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, ...]:
    """Asks for the answer of all rows; keeps what `of_document` takes of each document.

    Args:
      of_document: takes `answer_T` of the document's tokens, and the document.
      rows: document indices of each row: every document of the split once.
      finished: called after every batch.

    Returns:
      What was taken, documents in the order of the split.
    """
    result: list[np.ndarray] = [np.zeros(0, np.float32)] * len(split.documents)
    B = cfg.data.batch_size
    rows_of = [rows[start : start + B] for start in range(0, len(rows), B)]
    answers = _in_turn(answer, _batches(rows_of, split, cfg))
    for here, answer_BL in zip(rows_of, answers, strict=True):
        for row, answer_L in zip(here, answer_BL, strict=False):
            start = 0
            for index in row:
                document = split.documents[index]
                end = start + len(document.tokens)
                result[index] = of_document(answer_L[start:end], document)
                start = end
        finished()
    return tuple(result)


def _batches(
    rows_of: Sequence[Sequence[Sequence[int]]], split: Split, cfg: Config
) -> Iterator[Batch]:
    """Rows `[B, L]` of the one shape of training; empty ones fill the last batch."""
    B, L = cfg.data.batch_size, cfg.data.max_length
    columns = Columns.zeros(split)
    for rows in rows_of:
        yield make_batch(
            [*rows, *[[]] * (B - len(rows))],
            split,
            columns,
            shape=(B, L),
            num_documents=max(1, L // MIN_DOCUMENT),
            seed=None,
        )


def _in_turn(answer: Answer, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
    """Answers in NumPy; the next is asked for before one is waited for."""
    asked: deque[Any] = deque()
    for batch in batches:
        asked.append(answer(batch))
        if len(asked) == 2:
            yield np.asarray(asked.popleft(), np.float32)
    for last in asked:
        yield np.asarray(last, np.float32)


def token_nll(nll_T: np.ndarray, document: Document) -> np.ndarray:
    """The nll of each token, apart from the rest of the batch."""
    del document
    return nll_T.copy()


def last_score(pad_id: int | None) -> OfDocument:
    """Takes the score `[1]` at the last token that is not `pad_id`.

    As in `transformers`: where a model pads with its eos token, the eos that ends a
    document is passed over.
    """

    def of_document(score_T: np.ndarray, document: Document) -> np.ndarray:
        at = len(document.tokens) - 1
        real = np.flatnonzero(document.tokens != pad_id)
        last = real[-1] if pad_id is not None and len(real) else at
        return score_T[last : last + 1].copy()

    return of_document


def reference_batches(cfg: Config, split: Split) -> tuple[TrainBatches, int]:
    """What a reference is trained on, and in how many steps."""
    batches = TrainBatches(
        split,
        Columns.zeros(split),
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        accumulation=1,
        layout=cfg.data.layout,
        seed=cfg.seed,
    )
    return batches, sum(batches.steps_per_epoch(e) for e in range(cfg.train.epochs))


def run_steps(
    state: Any, step: Callable[..., Any], batches: TrainBatches, num_steps: int
) -> Any:
    """So many steps and nothing beside them; returns the last state."""
    with Progress(num_steps, "reference", every=20) as progress:
        for number in range(1, num_steps + 1):
            state, metrics = step(state, next(batches))
            progress.update(number, loss=float(metrics["loss"]))  # host sync
    return state
