"""A cache on disk of what frozen models say of every token or document.

One file per column and split, `<key>.safetensors`; the key is a digest of all that
decides the numbers. A file is whole or absent: it is written under another name and
renamed. What is read is checked against its own digest and never trusted otherwise.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from shared.files import cannot_write, clear_leftovers, write_whole

log = logging.getLogger("wmtp")
OLD_NAME = "ref_nll"  # of every column, in files made before columns had names


def signal_key(**parts: object) -> str:
    """Digest of everything that decides the signals; the order of parts is none of it.

    Args:
      parts: JSON values by name: digests of model, tokenizer and data, max_length, ...

    Returns:
      64 hexadecimal digits.

    Example:
      >>> signal_key(model="a", max_length=128) == signal_key(max_length=128, model="a")
      True
      >>> signal_key(max_length=128) == signal_key(max_length=256)
      False
    """
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def save(folder: str | Path, key: str, name: str, values: Sequence[np.ndarray]) -> Path:
    """Writes one column of a split's documents; a whole file or none.

    Args:
      folder: where cached signals lie; made if need be.
      key: what `signal_key` gave.
      name: of the column.
      values: per document, a number of each token `[T]`, or of the whole `[1]`.

    Returns:
      The file.

    Raises:
      ValueError: if a number is not finite, or the file cannot be written.
    """
    offsets = _offsets([len(x) for x in values])
    flat = np.zeros(int(offsets[-1]), np.float32)
    for start, x in zip(offsets[:-1], values, strict=True):
        flat[start : start + len(x)] = x
    if not np.isfinite(flat).all():
        count = int((~np.isfinite(flat)).sum())
        raise ValueError(
            f"{name} must be finite, got {count} other numbers among {flat.size} (has "
            "the model that gives it diverged?)"
        )
    metadata = {"key": key, "sha256": _content_digest(flat, offsets)}
    content = safetensors.numpy.save({name: flat, "offsets": offsets}, metadata)
    path = Path(folder) / f"{key}.safetensors"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent, r"[0-9a-f]{64}\.safetensors")
        write_whole(path, content)
    except OSError as error:
        required = "signals must be in a folder that can be written"
        raise cannot_write(required, folder, error) from None
    return path


def load(
    folder: str | Path, key: str, name: str, lengths: Sequence[int]
) -> tuple[np.ndarray, ...] | None:
    """Reads what `save` wrote; None if it is absent or cannot be trusted.

    Args:
      folder, key, name: as for `save`.
      lengths: how many numbers each document of the split has, in order.

    Returns:
      The values per document, float32. A file that is damaged, or made for another key
      or other lengths, counts as absent; a warning says so.
    """
    path = Path(folder) / f"{key}.safetensors"
    try:
        return read(path, key, name, lengths)
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError) as error:
        log.warning("%s is not used and will be made anew: %s", path, error)
        return None


def read(
    path: Path, key: str, name: str, lengths: Sequence[int]
) -> tuple[np.ndarray, ...]:
    """What `save` wrote to the file, checked as `load` does.

    Raises:
      OSError, SafetensorError, ValueError: why it is absent or cannot be trusted.
    """
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if set(file.keys()) not in ({name, "offsets"}, {OLD_NAME, "offsets"}):
            raise ValueError(f"must hold {name} and offsets, got {list(file.keys())}")
        stored = name if name in file.keys() else OLD_NAME
        flat, offsets = file.get_tensor(stored), file.get_tensor("offsets")
    if metadata.get("key") != key:
        raise ValueError(f"must be of key {key}, got {metadata.get('key')}")
    if metadata.get("sha256") != _content_digest(flat, offsets):
        raise ValueError("its content does not match its digest")
    if (flat.dtype, offsets.dtype) != (np.float32, np.int64):
        raise ValueError(
            f"must be float32 and int64, got {flat.dtype}, {offsets.dtype}"
        )
    if not np.array_equal(offsets, _offsets(lengths)) or flat.shape != offsets[-1:]:
        raise ValueError("its documents have other lengths than those of the split")
    if not np.isfinite(flat).all():
        raise ValueError("its numbers must be finite")
    return tuple(np.split(flat, offsets[1:-1])) if len(lengths) else ()


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(
        np.int64
    )


def _content_digest(flat: np.ndarray, offsets: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in (flat, offsets):
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
