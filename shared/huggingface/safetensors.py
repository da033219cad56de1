"""Safetensors files: opened without trust, read and written tensor by tensor.

Arrays are float32 on this side whatever a file holds, and never more than one tensor is
in memory beside what the caller keeps. Pickles (`.bin`, `.pt`) are not opened: loading
one can run code.
"""

import json
import math
import os
import re
from collections import UserDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  NumPy learns the name bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from shared.files import refuse_pointer
from shared.huggingface.json_keys import read_keys
from shared.json_text import unique
from shared.messages import first_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"[^/\\\0]*\.safetensors")  # a plain name
PICKLE = re.compile(r"\.(bin|pt|pth|ckpt)(\.index\.json)?$")
DTYPES = ("F32", "F16", "BF16", "F64")  # what a file may hold


class Stored(NamedTuple):
    """Where one tensor lies, and its name and dtype there."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


class StoredTensors(UserDict[str, Any]):
    """Name -> float32 array, read from disk at every look-up; `data` is where it lies.

    Raises:
      ValueError: if a tensor is of a dtype that is not one of `DTYPES`; at a look-up,
        if the file was damaged since it was opened.
    """

    def __init__(self, stored: dict[str, Stored]) -> None:
        super().__init__(stored)
        for name, tensor in stored.items():
            if tensor.dtype not in DTYPES:
                raise ValueError(
                    f"tensor {name!r} must be of dtype {', '.join(DTYPES)}, got "
                    f"{tensor.dtype} in {tensor.file} (quantised models cannot be "
                    "trained)"
                )

    def __getitem__(self, name: str) -> np.ndarray:
        with _opened(self.data[name].file) as file:
            return _float32(file.get_tensor(self.data[name].name))

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor, of which no more is read; slices without steps."""
        if not index:
            return self[name]
        with _opened(self.data[name].file) as file:
            return _float32(file.get_slice(self.data[name].name)[index])


def _float32(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # F64 beyond float32 becomes inf
        return x.astype(np.float32, copy=False)


def open_model(folder: Path) -> dict[str, Stored]:
    """The tensors of `model.safetensors`, or of the shards that an index names.

    Where both are there the single file is read, as `transformers` does.

    Raises:
      ValueError: if there is neither (pickles are refused), or a file is damaged, or
        index and shards disagree.
    """
    if (folder / SINGLE).is_file():
        return open_file(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _open_shards(folder)
    found = sorted(path.name for path in folder.glob("*"))
    pickles = [name for name in found if PICKLE.search(name)]
    if pickles:
        raise ValueError(
            f"{folder} must hold {SINGLE} (or {INDEX}), got the pickle {pickles[0]}, "
            "which is not opened because it can run code: convert it by loading the "
            "folder with transformers' AutoModelForCausalLM and save_pretrained"
        )
    others = [name for name in found if "safetensors" in name]
    got = f"only {', '.join(others)}" if others else "neither"
    raise ValueError(f"{folder} must hold {SINGLE} or {INDEX}, got {got}")


def open_file(path: Path) -> dict[str, Stored]:
    """The tensors of one file, by name; nothing but its header is read.

    Raises:
      ValueError: naming the file, if it is damaged or holds two tensors of one name.
    """
    refuse_pointer(path)
    with _opened(path) as file:
        with open(path, "rb") as raw:  # the library takes the last of two equal names
            header = raw.read(int.from_bytes(raw.read(8), "little"))
        try:
            json.loads(header, object_pairs_hook=unique)
        except ValueError as error:
            raise ValueError(f"{path} must name a tensor once, got {error}") from None
        slices = {name: file.get_slice(name) for name in file.keys()}
        return {
            name: Stored(path, name, part.get_dtype(), tuple(part.get_shape()))
            for name, part in slices.items()
        }


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, of which the library has checked header, offsets and size."""
    try:
        # Not mapped into memory: there a file that shrinks kills the process.
        with safe_open(path, framework="np", backend="pread") as file:
            yield file
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ValueError(f"{path} must be readable, got {reason}") from None
    except SafetensorError as error:
        got = f"{first_line(error)} (is it cut short?)"
        message = f"{path} must be a whole safetensors file, got {got}"
        raise ValueError(message) from None


def write_file(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes float32 tensors under their names, one after the other, and syncs."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, x in tensors.items():
        start, end = end, end + 4 * math.prod(np.shape(x))
        header[name] = {
            "dtype": "F32",
            "shape": list(np.shape(x)),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for x in tensors.values():
            # Not tofile: its error on a full disk does not say that the disk is full.
            file.write(np.ascontiguousarray(x, "<f4").data.cast("B"))
        file.flush()
        os.fsync(file.fileno())


def check_file(path: Path, tensors: Mapping[str, Any]) -> None:
    """Reads every tensor of a written file and compares it, bit by bit.

    Raises:
      ValueError: naming the tensors that the file lacks, or the first that differs.
    """
    found = StoredTensors(open_file(path))
    if found.keys() != tensors.keys():
        names = sorted(found.keys() ^ tensors.keys())
        raise ValueError(f"{path} must hold what was written, got other names: {names}")
    for name, x in tensors.items():
        # As whole numbers: a NaN equals itself, and -0 is not 0.
        right = np.asarray(x, np.float32).view(np.uint32)
        if not np.array_equal(found[name].view(np.uint32), right):
            raise ValueError(
                f"tensor {name!r} in {path} must be what was written, got other "
                "numbers (is the disk sound?)"
            )


def _open_shards(folder: Path) -> dict[str, Stored]:
    shard_of = _read_index(folder / INDEX)
    found: dict[str, Stored] = {}
    for shard in sorted(set(shard_of.values())):
        if not (folder / shard).is_file():
            raise ValueError(
                f"{folder / INDEX} must name files of {folder}, got no {shard}"
            )
        for name, stored in open_file(folder / shard).items():
            if name in found:
                raise ValueError(
                    f"tensor {name!r} must be in one shard, got it in both "
                    f"{found[name].file} and {stored.file}"
                )
            found[name] = stored
    for name in sorted(found.keys() | shard_of.keys()):
        listed, got = shard_of.get(name, "none"), "none"
        if name in found:
            got = found[name].file.name
        if got != listed:
            raise ValueError(
                f"tensor {name!r} must be in the shard listed in {folder / INDEX}, "
                f"{listed}, got it in {got}"
            )
    return found


def _read_index(path: Path) -> dict[str, str]:
    """Tensor -> shard; shards are plain names, so that none lies elsewhere."""
    keys = read_keys(path)
    required = "an object of tensors to shards"
    shard_of = keys.take("weight_map", required, lambda x: x and isinstance(x, dict))
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise ValueError(
                f"{path} must name .safetensors files in its own folder, got {shard!r} "
                f"for tensor {name!r}"
            )
    return shard_of
