"""The folder that a program may write in, whatever it has put there."""

import os
from contextlib import suppress
from pathlib import Path


def remove(folder: Path) -> None:
    """Removes a folder with all that is in it, however deep.

    A tree may be deeper than Python recurses, its paths longer than the kernel takes.
    What is found two levels down is therefore moved up before it is removed.
    """
    moved = 0
    while folders := _without_files(folder):
        for inner in folders:
            for deeper in _without_files(inner):
                moved += 1
                deeper.rename(folder / f".moved-{moved}")
            inner.rmdir()
    with suppress(FileNotFoundError):
        folder.rmdir()


def _without_files(folder: Path) -> list[Path]:
    """The folders in a folder, of which the files are removed."""
    found = []
    with suppress(FileNotFoundError), _entries(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found.append(Path(entry.path))
            else:
                os.unlink(entry.path)
    return found


def _entries(folder: Path) -> "os._ScandirIterator[str]":
    """Of a folder that may have been closed to its owner."""
    try:
        return os.scandir(folder)
    except PermissionError:
        folder.chmod(0o700)
        return os.scandir(folder)


def size(folder: Path, most: int) -> int:
    """Bytes of the files in a folder, counted up to some more than `most`.

    Each entry counts as a block of 4096 at least, so that the walk has an end. A folder
    that cannot be read counts as too much.
    """
    total, left = 0, [folder]
    while left and total <= most:
        try:
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    kept = entry.stat(follow_symlinks=False)
                    total += max(kept.st_blocks * 512, 4096)
                    if entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
                    if total > most:
                        break
        except FileNotFoundError:  # removed meanwhile
            continue
        except OSError:
            return most + 1
    return total
