"""Passes over a whole split: a frozen model's answers, and a reference's training.

Axes: B rows, L positions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from shared.batches import Batch, Columns, TrainBatches, eval_batches
from shared.config import Config
from shared.console import Progress
from shared.data import Document, Split


def over_documents(
    answer: Callable[[Batch], np.ndarray],
    of_document: Callable[[np.ndarray, Document], np.ndarray],
    cfg: Config,
    split: Split,
    title: str,
) -> tuple[np.ndarray, ...]:
    """Asks for `answer_BL` of all rows; keeps what `of_document` takes of each."""
    batches, indices = eval_batches(
        split,
        Columns.zeros(split),
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
    )
    result: list[np.ndarray] = [np.zeros(0, np.float32)] * len(split.documents)
    with Progress(len(batches), title, every=20) as progress:
        for number, (batch, rows_B) in enumerate(zip(batches, indices, strict=True), 1):
            answer_BL = answer(batch)
            for row, index in enumerate(rows_B):
                if index >= 0:
                    document = split.documents[index]
                    result[index] = of_document(answer_BL[row], document)
            progress.update(number)
    return tuple(result)


def token_nll(nll_L: np.ndarray, document: Document) -> np.ndarray:
    """The nll of a document's own tokens, without the rest of its row."""
    return nll_L[: len(document.tokens)].copy()


def last_score(pad_id: int | None) -> Callable[[np.ndarray, Document], np.ndarray]:
    """Takes the score `[1]` at the last token that is not `pad_id`.

    As in `transformers`: where a model pads with its eos token, the eos that ends a
    document is passed over.
    """

    def of_document(score_L: np.ndarray, document: Document) -> np.ndarray:
        at = len(document.tokens) - 1
        real = np.flatnonzero(document.tokens != pad_id)
        last = real[-1] if pad_id is not None and len(real) else at
        return score_L[last : last + 1].copy()

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
