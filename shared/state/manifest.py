"""The manifest of a checkpoint: step, and size and digest of every file of its folder.

It is written last. A checkpoint has its name only once manifest and files are on the
disk, and is read only where every file is what the manifest says.
"""

import re
from pathlib import Path
from typing import Any

from shared.config.layers import printable
from shared.files import file_digest, write_json
from shared.huggingface.json_keys import Keys, read_keys
from shared.state.digests import check_digest, content_digest

MANIFEST = "manifest.json"
FORMAT = 1  # counted up when an older reader would misread the files
MAX_BYTES = 50_000_000
# Orbax names its files by letters, digits and these, in folders of its own.
NAME = re.compile(r"(?!/)(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._/@=+-]{1,400}")
DIGEST = re.compile("[0-9a-f]{64}")


def write_manifest(folder: Path, step: int) -> None:
    """Writes the manifest of all files that the folder holds now."""
    files = {
        name: {"size": path.stat().st_size, "sha256": file_digest(path)}
        for name, path in _files(folder).items()
    }
    content: dict[str, Any] = {"format": FORMAT, "step": step, "files": files}
    write_json(folder / MANIFEST, content | {"digest": content_digest(content)})


def check_manifest(folder: Path, step: int) -> None:
    """Holds a checkpoint's folder against its manifest, every byte of every file.

    Raises:
      ValueError: naming the file that is missing, extra, of another size or content,
        or what the manifest itself is not.
    """
    files, there = _read(folder / MANIFEST, step), _files(folder)
    for name in sorted(files.keys() ^ there.keys()):
        got = "none" if name in files else "one that it does not name"
        raise ValueError(f"{folder / name} must be as {MANIFEST} says, got {got}")
    for name, known in files.items():
        _check_file(there[name], folder, known)


def _check_file(path: Path, folder: Path, known: dict[str, Any]) -> None:
    """The size first, which costs nothing."""
    size = path.stat().st_size if path.exists() else None
    if size not in (None, known["size"]):
        raise ValueError(f"{path} must have {known['size']} bytes, got {size}")
    check_digest(path, folder, known["sha256"], MANIFEST)


def _read(path: Path, step: int) -> dict[str, dict[str, Any]]:
    """Size and digest of each file by name, of a manifest that is whole."""
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} must have at most {MAX_BYTES} bytes, got more")
    keys = read_keys(path)
    newer = f"{FORMAT} (another one is of a newer version of this program)"
    keys.take("format", newer, lambda x: type(x) is int and x == FORMAT)
    if keys.found.pop("digest", None) != content_digest(keys.found):
        raise ValueError(f"{path} must be as it was written, got other content")
    keys.take("step", f"{step}, as its folder", lambda x: type(x) is int and x == step)
    files = keys.take("files", "an object", lambda x: isinstance(x, dict))
    for name, known in files.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"{path} must name files of its folder, got {name!r}")
        _check_known(Keys(path, files), name, known)
    return files


def _check_known(files: Keys, name: str, known: Any) -> None:
    whole = isinstance(known, dict) and known.keys() == {"size", "sha256"}
    if not whole or type(known["size"]) is not int or known["size"] < 0:
        raise files.refuse(name, "size and sha256")
    if not DIGEST.fullmatch(str(known["sha256"])):
        raise ValueError(
            f"sha256 of {printable(name)} must be 64 hexadecimal digits in {files.path}"
        )


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder by their names within it, the manifest left out."""
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() or path.is_symlink()
    }
    found.pop(MANIFEST, None)
    return found
