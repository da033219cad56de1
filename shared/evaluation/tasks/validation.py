"""The validation split of a run, document by document.

The nll of head k over all documents is `eval_nll_head_k` of training: a target counts
for head k where the document has a position `j - 1 - k` that it can be predicted from.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shared.config.fields import DataConfig
from shared.config.layers import load_config
from shared.data.documents import Split, load_examples, load_splits
from shared.data.tokenised import Document, check_rows
from shared.data.tokenizer import Tokenizer
from shared.evaluation.results.of_problems import HeadMeasure, ProblemResult
from shared.evaluation.tasks.solutions import Measure


@dataclass(frozen=True)
class Validation:
    """What is measured: a split, and where it came from."""

    source: str
    split: Split


def load_validation(
    run: Path | None, source: str, tokenizer: Tokenizer, most: int, rows: int
) -> Validation:
    """The validation split, tokenised as the run did.

    Args:
      run: whose config says how; None for a model that is of no run.
      source: another one than the run's; empty leaves the run's, or the minis.
      most: tokens that the model reads.
      rows: of its embedding.

    Raises:
      ValueError: if it cannot be read, or has tokens that the model does not know.
    """
    cfg = DataConfig(max_length=min(most, DataConfig().max_length))
    if run is not None:
        cfg = load_config(run / "config.yaml").data
    if source:
        cfg = replace(cfg, source=os.path.expanduser(source))
    examples = load_examples(cfg)
    name = "validation"
    split = load_splits(cfg, tokenizer, splits=(name,), examples=examples)[name]
    check_rows({name: split}, rows, tokenizer, "the model")
    return Validation(cfg.source, split)


def measure_document(
    document: Document, tokenizer: Tokenizer, measure: Measure
) -> ProblemResult:
    """What every head makes of a document's targets, of which it has one or more.

    The bytes are those of the targets' text; bits of its end of text count, too.
    """
    tokens = document.tokens.tolist()
    found = [measure(tokens[:i], tokens[i:j]) for i, j in spans_of(document.target)]
    heads = tuple(map(_together, zip(*found, strict=True)))
    own = document.tokens[document.target].tolist()
    return ProblemResult(
        id=document.id,
        bits=heads[0].nll / math.log(2),
        bytes=max(1, len(tokenizer.decode(own).encode("utf-8"))),
        heads=heads,
    )


def spans_of(target: np.ndarray) -> list[tuple[int, int]]:
    """Where targets stand in a row, `[start, end)`.

    Example:
      >>> spans_of(np.array([False, True, True, False, True]))
      [(1, 3), (4, 5)]
    """
    steps = np.diff(np.concatenate([[0], target.astype(np.int8), [0]]))
    starts, ends = (np.flatnonzero(steps == x).tolist() for x in (1, -1))
    return list(zip(starts, ends, strict=True))


def _together(parts: Sequence[HeadMeasure]) -> HeadMeasure:
    """One head's measures, added up."""
    return HeadMeasure(
        nll=sum(part.nll for part in parts),
        targets=sum(part.targets for part in parts),
        right=sum(part.right for part in parts),
        rank=sum(part.rank for part in parts),
    )
