"""`token_map.json`: the ids that heads draft, beside a model or in a run's folder.

Most tokens of a text are a few thousand of the vocabulary's. Heads k >= 1 that score
only those read fewer rows of the unembedding; head 0, which verifies, scores all.

    [198, 13, 11, 262, ...]        the most frequent ids, most frequent first
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from shared.files import refuse_pointer, write_text
from shared.huggingface.json_keys import MAX_COUNT
from shared.json_text import parse
from shared.messages import first_line

FILE = "token_map.json"
MAX_BYTES = 16_000_000


def most_frequent(
    documents: Iterable[np.ndarray], number: int, vocab_size: int
) -> list[int]:
    """The most frequent ids of documents, most frequent first.

    Of equally frequent ones, those that never occur among them, the smaller id.

    Args:
      documents: token ids of each, `[T]`.
      number: of ids, from 1 to `vocab_size`.

    Example:
      >>> most_frequent([np.array([3, 1, 3]), np.array([2, 1])], 4, vocab_size=5)
      [1, 3, 2, 0]
    """
    counts_V = np.zeros(vocab_size, np.int64)
    for tokens in documents:
        counts_V += np.bincount(tokens, minlength=vocab_size)
    return np.argsort(-counts_V, kind="stable")[:number].tolist()


def write_token_map(folder: Path, ids: list[int]) -> None:
    """Writes the whole file or none."""
    write_text(folder / FILE, json.dumps(ids) + "\n")


def read_token_map(folder: Path, vocab_size: int = MAX_COUNT) -> list[int] | None:
    """The ids that heads draft, or None where a folder has none: then all.

    Args:
      folder: of a run, a checkpoint or a model.
      vocab_size: no id may be beyond it.

    Raises:
      ValueError: if the file is no list of different ids.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    refuse_pointer(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} must have at most {MAX_BYTES} bytes, got more")
    try:
        found = parse(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} must be readable, got {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {first_line(error)}") from None
    required = f"{path} must be a list of different ids from 0 to {vocab_size - 1}"
    if not isinstance(found, list) or not found:
        got = "an empty list" if found == [] else f"{type(found).__name__}"
        raise ValueError(f"{required}, got {got}")
    wrong = [x for x in found if not _is_id(x, vocab_size)]
    if wrong:
        raise ValueError(f"{required}, got {str(wrong[0])[:100]!r}")
    if len(set(found)) < len(found):
        twice = next(x for x in found if found.count(x) > 1)
        raise ValueError(f"{required}, got {twice} twice")
    return found


def _is_id(value: Any, vocab_size: int) -> bool:
    return type(value) is int and 0 <= value < vocab_size
