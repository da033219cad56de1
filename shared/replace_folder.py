"""A folder in place of an older one, which stays until the new one is whole."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("wmtp")


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
