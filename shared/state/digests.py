"""Digests that say whether a file, or a record of files, is as it was written."""

import hashlib
import json
from pathlib import Path
from typing import Any

from shared.files import file_digest


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of an object, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_digest(path: Path, folder: Path, digest: str, record: str) -> None:
    """Holds a file of a folder against the digest that a record names.

    Raises:
      ValueError: if it lies elsewhere, cannot be read, or has other content.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path} must lie in its folder, got a link to {path.resolve()}"
        )
    try:
        found = file_digest(path)
    except OSError as error:
        raise ValueError(f"{path} must be readable, got {error.strerror}") from None
    if found != digest:
        raise ValueError(
            f"{path} must be as it was written, got content of another digest than "
            f"{record} names (is it damaged?)"
        )
