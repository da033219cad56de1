"""Files and folders that are there whole or not at all, whatever stops the writer."""

import errno
import hashlib
import json
import logging
import math
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

log = logging.getLogger("wmtp")

POINTER = b"version https://git-lfs.github.com/spec/"
# A temporary name, and who writes it: process and machine. Older versions left the
# machine out, and the first dot of a file's.
OWNER = re.compile(
    r"(?P<dot>\.?)(?P<name>.+)\.(?P<process>[0-9]+)(?:@(?P<host>[\w-]+))?\.tmp"
)


def _machine() -> str:
    """Where numbers of processes mean the same: a container has its own."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        numbers = ""
    return re.sub(r"[^\w-]+", "-", f"{platform.node() or 'here'} {numbers}").strip("-")


HOST = _machine()
# The disk is at fault, not the place that was asked for.
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


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
    temporary = temporary_name(path)
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
    shutil.rmtree(made, ignore_errors=True)  # of a writer that was killed
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


@contextmanager
def new_folder(folder: Path, what: str = "the model's folder") -> Iterator[Path]:
    """A folder to fill under another name, which gets its own when all went well.

    By then all that it holds is on the disk.

    Args:
      what: it is, for the user.

    Raises:
      ValueError: if it holds something already or cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{what} must be new or empty, got {folder}")
    temporary = temporary_name(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        sync_folder(temporary)
        if folder.exists():
            folder.rmdir()
        temporary.rename(folder)
        _sync(folder.parent)  # else a power cut may take the name back
    except OSError as error:
        required = f"{what} must be one that can be written"
        raise cannot_write(required, folder, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Waits until every file and folder within is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # where no folder can be opened
        return
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove_folder(folder: Path) -> None:
    """Removes a folder, which loses its name first: nobody sees it half-removed."""
    removed = temporary_name(folder.with_name(f"removed-{folder.name}"))
    folder.rename(removed)
    shutil.rmtree(removed)


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_name(path: Path) -> Path:
    """A name beside `path` for what is not whole yet, which says who writes it.

    What killed writers of the same path have left there is removed.
    """
    clear_leftovers(path.parent, re.escape(path.name))
    return path.with_name(f".{path.name}.{os.getpid()}@{HOST}.tmp")


def clear_leftovers(folder: Path, names: str = r".+") -> None:
    """Removes what killed writers have left in a folder, never what a live one writes.

    Args:
      names: pattern of the names that were to be written; all of them only in a folder
        that is ours alone.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        found = OWNER.fullmatch(path.name)
        if found is None or not re.fullmatch(names, found["name"]):
            continue
        # No folder of ours ever had a name without the dot.
        ours = found["host"] in (None, HOST) and (found["dot"] or not path.is_dir())
        if ours and not _is_alive(int(found["process"])):
            with suppress(OSError):  # somebody else's, in a folder of all
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class DiskError(OSError, ValueError):
    """A place that would do, on a disk that does not; one line, for the user."""


def cannot_write(required: str, path: Path | str, error: OSError) -> ValueError:
    """What to raise: a ValueError for a place that will not do, else a `DiskError`.

    Args:
      required: what the place must be, as in `output_dir must be a folder ...`.
    """
    text = f"{required}, got {str(path)!r}: {error.strerror or error}"
    return DiskError(text) if error.errno in DISK else ValueError(text)


def _is_alive(process: int) -> bool:
    """Whether another process has the number: what has ours is of an earlier one."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
