"""Safetensors files: opened without trust, read and written tensor by tensor.

Arrays are float32 on this side whatever a file holds, and never more than one tensor is
in memory beside what the caller keeps. Pickles (`.bin`, `.pt`) are not opened: loading
one can run code.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What a file may hold, and how its bytes are read. NumPy has no bfloat16: it is the
# upper half of a float32.
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}
MAX_HEADER = 100_000_000  # bytes, the limit of the format


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies.

    Attributes:
      file: which holds it.
      dtype: as the file names it, one of `DTYPES` or not.
      shape: of the tensor.
      start: first byte in the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class StoredTensors(Mapping[str, np.ndarray]):
    """Name -> float32 array, read from disk at every look-up.

    Raises:
      ValueError: if a tensor is of a dtype that is not one of `DTYPES`.
    """

    def __init__(self, stored: dict[str, Stored]) -> None:
        self.stored = stored
        for name, tensor in stored.items():
            if tensor.dtype not in DTYPES:
                raise ValueError(
                    f"tensor {name!r} must be of dtype {', '.join(DTYPES)}, got "
                    f"{tensor.dtype} in {tensor.file} (quantised models cannot be "
                    "trained)"
                )

    def __getitem__(self, name: str) -> np.ndarray:
        return read_tensor(name, self.stored[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


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
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    pickles = [
        name
        for name in found
        if name.removesuffix(".index.json").endswith((".bin", ".pt", ".pth", ".ckpt"))
    ]
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
      ValueError: naming the file, and the tensor where one is damaged.
    """
    try:
        header, start, size = _read_header(path)
        found = {
            name: _check_entry(path, name, entry, start, size)
            for name, entry in header.items()
        }
        with safe_open(path, framework="np"):
            pass  # the format's own checks: no gap, no overlap, nothing behind
    except OSError as error:
        raise ValueError(f"{path} must be readable, got {error.strerror}") from None
    except SafetensorError as error:
        raise _damaged(path, str(error)) from None
    return found


def read_tensor(name: str, stored: Stored) -> np.ndarray:
    """One tensor, as float32.

    Raises:
      ValueError: if the file became shorter since it was opened.
    """
    count = math.prod(stored.shape)
    try:
        flat = np.fromfile(
            stored.file, DTYPES[stored.dtype], count, offset=stored.start
        )
    except OSError as error:
        message = f"{stored.file} must be readable, got {error.strerror}"
        raise ValueError(message) from None
    if len(flat) != count:
        raise _cut(stored.file, name)
    if stored.dtype == "BF16":
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # F64 beyond float32 becomes inf
        return flat.astype(np.float32, copy=False).reshape(stored.shape)


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
        right = np.ascontiguousarray(x, np.float32).reshape(np.shape(x))
        same = found.stored[name].shape == right.shape
        # As whole numbers: a NaN equals itself, and -0 is not 0.
        if not same or not np.array_equal(
            found[name].view(np.uint32), right.view(np.uint32)
        ):
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
    for name, shard in shard_of.items():
        if name not in found or found[name].file.name != shard:
            raise ValueError(
                f"tensor {name!r} must be in {folder / shard} as {INDEX} says, got none"
            )
    for name, stored in found.items():
        if name not in shard_of:
            raise ValueError(
                f"tensor {name!r} of {stored.file} must be listed in {INDEX}, which "
                "does not name it"
            )
    return found


def _read_index(path: Path) -> dict[str, str]:
    """Tensor -> shard; shards are plain names, so that none lies elsewhere."""
    required = f'{path} must be a JSON object with a "weight_map" of tensors to shards'
    try:
        index = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{required}, got {_line(error)}") from None
    shard_of = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{required}, got {type(shard_of).__name__}")
    for name, shard in shard_of.items():
        plain = isinstance(shard, str) and shard.endswith(".safetensors")
        if not plain or Path(shard).name != shard or "\\" in shard or "\0" in shard:
            raise ValueError(
                f"{path} must name .safetensors files in its own folder, got {shard!r} "
                f"for tensor {name!r}"
            )
    return shard_of


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Entries of the tensors, first byte of the data, and size of the file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise _damaged(path, f"{size} bytes that do not hold its header")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"an unreadable header: {_line(error)}") from None
    if not isinstance(header, dict):
        raise _damaged(path, f"a header that is a {type(header).__name__}")
    header.pop("__metadata__", None)
    return header, 8 + length, size


def _check_entry(path: Path, name: str, entry: Any, start: int, size: int) -> Stored:
    try:
        dtype, shape = str(entry["dtype"]), tuple(map(int, entry["shape"]))
        first, end = map(int, entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        message = f"a header that does not describe tensor {name!r}"
        raise _damaged(path, message) from None
    needed = math.prod(shape) * BYTES[dtype] if dtype in BYTES else end - first
    if end - first != needed or min((first, *shape), default=0) < 0:
        raise _damaged(
            path, f"{end - first} bytes for tensor {name!r} of {dtype} {list(shape)}"
        )
    if start + end > size:
        raise _cut(path, name)
    return Stored(path, dtype, shape, start + first)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} twice")
    return found


def _damaged(path: Path, got: str) -> ValueError:
    got = next(iter(got.splitlines()), "nothing")
    return ValueError(f"{path} must be a whole safetensors file, got {got}")


def _cut(path: Path, name: str) -> ValueError:
    return _damaged(
        path, f"one that ends before or within tensor {name!r} (cut short?)"
    )


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
