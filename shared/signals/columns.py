"""The table of signals: named columns, a number per token or per document.

A column is what one pass of a frozen model leaves (`asks`), or is made of other columns
(`made`). A new one is a function and a row.

Axes: T tokens of a document.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from shared import weighting
from shared.config.fields import Config
from shared.data.documents import Document, Split
from shared.signals.passes import FrozenModel, Measured, OfDocument

log = logging.getLogger("wmtp")
Splits = dict[str, Split]
BySplit = dict[str, Measured]  # split -> values per document
Made = Callable[[dict[str, BySplit], Splits, dict[str, str]], tuple[BySplit, str]]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One signal.

    Attributes:
      doc: one line, with the unit.
      per: a number of each `token`, or of the whole `document`.
      told: what its source is called in log and summary; empty: nothing is said of it.
      model: which frozen model is asked: `reference`, or `reward`; empty: it is made.
      answer: what that model answers at each position: its `nll` or its `score`.
      of_document: what is kept of the answer.
      needs: columns that it is made of.
      made: `(those columns, splits, sources so far)` -> values by split, and their
        source in words.
    """

    doc: str
    per: str
    told: str = ""
    model: str = ""
    answer: str = ""
    of_document: OfDocument | None = None
    needs: Callable[[Config], tuple[str, ...]] = lambda cfg: ()
    made: Made | None = None

    def length_of(self, document: Document) -> int:
        """How many numbers of a document there are."""
        return len(document.tokens) if self.per == "token" else 1


def token_nll(nll_T: np.ndarray, document: Document, model: FrozenModel) -> np.ndarray:
    """The nll of each token, apart from the rest of the batch."""
    return nll_T.copy()


def last_score(
    score_T: np.ndarray, document: Document, model: FrozenModel
) -> np.ndarray:
    """The score `[1]` at the last token that is not the model's `pad_id`.

    As in `transformers`: where a model pads with its eos token, the eos that ends a
    document is passed over.
    """
    at = len(document.tokens) - 1
    real = np.flatnonzero(document.tokens != model.pad_id)
    last = real[-1] if model.pad_id is not None and len(real) else at
    return score_T[last : last + 1].copy()


def rewards(
    found: dict[str, BySplit], splits: Splits, sources: dict[str, str]
) -> tuple[BySplit, str]:
    """Rewards of the documents, whitened by the moments of the train split's."""
    if "reward_score" in found:
        source = f"score of {sources['reward model']}"
        raw = {name: np.concatenate(x) for name, x in found["reward_score"].items()}
    else:
        source = "pseudo reward (no reward model): -mean ref_nll of the document"
        raw = {
            name: _pseudo_rewards(nll, splits[name])
            for name, nll in found["ref_nll"].items()
        }
    # A document without targets is nobody's reward: 0 here, and in no moment.
    rated = {
        name: np.array([document.target.any() for document in split.documents])
        for name, split in splits.items()
    }
    moments = weighting.reward_moments(raw["train"][rated["train"]])
    mean, deviation = (float(x) for x in moments)
    if deviation < weighting.SMALLEST_REWARD_DEVIATION:
        log.warning(
            "rewards of the train split are all alike (deviation %.1e): the critic has "
            "nothing to learn, every reward is 0",
            deviation,
        )
    white = {
        name: tuple(
            np.where(rated[name], weighting.whiten(x, mean, deviation), 0).reshape(
                -1, 1
            )
        )
        for name, x in raw.items()
    }
    said = f"whitened (mean {mean:.3f}, deviation {deviation:.3f} before)"
    return white, f"{source}, {said}"


def _pseudo_rewards(ref_nll: Measured, split: Split) -> np.ndarray:
    found = [
        weighting.pseudo_reward(nll, document.target)
        for nll, document in zip(ref_nll, split.documents, strict=True)
    ]
    return np.array(found, np.float32)


COLUMNS = {
    "ref_nll": Column(
        doc="nll of each token under the reference, nats; 0 where it is no target",
        per="token",
        told="reference",
        model="reference",
        answer="nll",
        of_document=token_nll,
    ),
    "reward_score": Column(
        doc="score of the document under the reward model",
        per="document",
        told="reward model",
        model="reward",
        answer="score",
        of_document=last_score,
    ),
    "reward": Column(
        doc="reward of the document, of mean 0 and deviation 1 over the train split",
        per="document",
        told="reward",
        needs=lambda cfg: (
            ("reward_score",) if cfg.critic.reward_model else ("ref_nll",)
        ),
        made=rewards,
    ),
}


def needed(cfg: Config) -> tuple[str, ...]:
    """The columns of a run's algorithm and what they are made of, those first."""
    found: list[str] = []

    def add(name: str) -> None:
        for other in COLUMNS[name].needs(cfg):
            add(other)
        if name not in found:
            found.append(name)

    for name in cfg.algorithm.signals:
        add(name)
    return tuple(found)


def needs_model(cfg: Config, model: str) -> bool:
    """Whether a signal of the run asks the `reference`, or the `reward` model."""
    return any(COLUMNS[name].model == model for name in needed(cfg))
