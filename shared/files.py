"""Files and folders that are there whole or not at all, whatever stops the writer."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

log = logging.getLogger("wmtp")

POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(file: Path | Traversable) -> None:
    """Says so where a clone without Git LFS has left a pointer in a file's place.

    Raises:
      ValueError: if the file is one. A file that cannot be read is its reader's matter.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(len(POINTER))
    except OSError:
        return
    if start == POINTER:
        raise ValueError(
            f"{file} must be the file itself, got the Git LFS pointer to it (git lfs "
            "pull fetches it)"
        )


def write_whole(path: Path, content: bytes) -> None:
    """Writes under a temporary name, waits for the disk, renames.

    Raises:
      OSError: if the file cannot be written; an older one is left as it was.
    """
    # The process number keeps two writers of one file apart.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file or none, as `write_whole` does."""
    write_whole(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes a whole JSON file or none; null for a number that is not finite."""
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Has `write` make a new folder, then gives it the name of the older one.

    Raises:
      ValueError: if the older folder cannot be removed.
    """
    made = folder.with_name(folder.name + ".new")
    for left in folder.parent.glob(f"*{made.name}*"):  # of a writer that was killed
        shutil.rmtree(left, ignore_errors=True)
    write(made)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        made.rename(folder)
    except OSError as error:
        raise ValueError(
            f"the model's folder must be one that can be replaced, got {folder}: "
            f"{error.strerror}; the new model is in {made}"
        ) from None
    log.info("model for transformers: %s", folder)
