"""The signals of a run, kept with it, so that it goes on without any frozen model.

    signals/signals.json                   where they come from, in words
    signals/COLUMN-SPLIT.safetensors       one column each, as in the cache

They lie in the run folder, and beside a model that either trainer can go on from.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from shared.data.documents import Split
from shared.files import cannot_write, write_json, write_whole
from shared.huggingface.json_keys import Keys, read_keys
from shared.messages import first_line
from shared.signals import cache
from shared.signals.columns import COLUMNS, BySplit

WORDS = "signals.json"


@dataclass(frozen=True)
class Signals:
    """The columns of a run, and where they come from.

    Attributes:
      sources: what a source is called (`Column.told`) -> one sentence.
      columns: by name and split, per document, float32 `[T]` or `[1]`.
    """

    sources: dict[str, str] = field(default_factory=dict)
    columns: dict[str, BySplit] = field(default_factory=dict)

    def of(self, split: str, names: Iterable[str]) -> dict[str, tuple[np.ndarray, ...]]:
        """Some columns of one split: what its batches carry."""
        return {name: self.columns[name][split] for name in names}


def keep_signals(folder: Path, signals: Signals, splits: dict[str, Split]) -> None:
    """Writes every column of every split as a new folder; a whole one or none.

    Every file is read back before the folder gets its name.

    Raises:
      ValueError: if a number is not finite, or the folder cannot be written.
    """
    made = folder.with_name(folder.name + ".tmp")
    try:
        shutil.rmtree(made, ignore_errors=True)  # of a writer that was killed
        for name, by_split in signals.columns.items():
            for split, values in by_split.items():
                cache.save(made, f"{name}-{split}", name, values)
        write_json(made / WORDS, {"sources": signals.sources})
        _read(made, signals.columns, splits)
        made.rename(folder)
    except OSError as error:
        required = "the run's signals must be in a folder that can be written"
        raise cannot_write(required, folder, error) from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


def read_signals(
    folder: Path, names: Iterable[str], splits: dict[str, Split]
) -> Signals | None:
    """Reads what `keep_signals` wrote; None if there is no such folder.

    Args:
      names: of the columns that are wanted.
      splits: train and validation, whose documents they must fit.

    Raises:
      ValueError: if a file is missing or damaged, or does not fit the documents.
    """
    return _read(folder, names, splits) if folder.exists() else None


def copy_signals(source: Path, folder: Path) -> None:
    """Copies the files of `keep_signals` into a new folder, waiting for the disk.

    Raises:
      ValueError: if `source` holds no signals.
      OSError: if the folder cannot be written.
    """
    if not (source / WORDS).is_file():
        raise ValueError(f"{source} must hold the run's signals, got no {WORDS}")
    folder.mkdir()
    for path in [source / WORDS, *sorted(source.glob("*.safetensors"))]:
        write_whole(folder / path.name, path.read_bytes())


def _read(folder: Path, names: Iterable[str], splits: dict[str, Split]) -> Signals:
    sources = _read_sources(read_keys(folder / WORDS))
    columns = {
        name: {split: _read_column(folder, name, of) for split, of in splits.items()}
        for name in names
    }
    return Signals(sources, columns)


def _read_column(folder: Path, name: str, split: Split) -> tuple[np.ndarray, ...]:
    path = folder / f"{name}-{split.name}.safetensors"
    lengths = [COLUMNS[name].length_of(document) for document in split.documents]
    try:
        return cache.read(path, path.stem, name, lengths)
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"{path} must hold the run's signals as they were written, got: "
            f"{first_line(reason or error)}"
        ) from None


def _read_sources(keys: Keys) -> dict[str, str]:
    if "sources" not in keys.found:
        return _sources_of_before(keys)
    found = keys.found["sources"]
    if not isinstance(found, dict) or not all(
        isinstance(text, str) for text in found.values()
    ):
        raise keys.refuse("sources", "an object of sentences")
    return found


def _sources_of_before(keys: Keys) -> dict[str, str]:
    """From files made before columns had names: two sentences, and two moments."""
    names = {"reference": "reference", "reward_model": "reward"}
    for key in names:
        if not isinstance(keys.found.get(key, 0), str | None):
            raise keys.refuse(key, "a sentence or null")
    return {new: keys.found[old] for old, new in names.items() if keys.found[old]}
