"""What JAX has compiled: kept on disk between runs, and not for ever in memory.

Compilation is most of the time of these tests, and compiled programs are most of their
memory: some 2 MB each, however small, until JAX forgets them.
"""

import ctypes
import gc
import hashlib
import os
import platform
import resource
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

FOLDER = ".jax_cache"
MOST_BYTES = 2**30  # on disk
MOST_RESIDENT = 22 * 2**30 // 10  # after a test; during one it is up to 1 GiB more


def kept_folder(root: Path) -> Path:
    """Where programs of these versions, flags and processor are kept.

    Folders beside it and at last the folder itself go, the longest unused first, where
    all are larger than MOST_BYTES.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    names = version("jax"), version("jaxlib"), sys.version, flags, processor()
    digest = hashlib.sha256(repr(names).encode()).hexdigest()[:16]
    folder = root / FOLDER / digest
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)  # used now
    sizes = {path: size_of(path) for path in folder.parent.iterdir() if path.is_dir()}
    for path in sorted(sizes, key=lambda path: path.stat().st_mtime):
        if sum(sizes.values()) > MOST_BYTES:
            shutil.rmtree(path, ignore_errors=True)
            sizes[path] = 0
    folder.mkdir(exist_ok=True)
    return folder


def processor() -> str:
    """What a program may have been compiled for."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return next((x for x in lines if x.startswith(("flags", "Features"))), "")


def size_of(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


def own_copy(folder: Path) -> Path:
    """The kept programs under other names, for a process that is killed.

    JAX does not write them at once: one that dies while it does leaves half a program.
    """
    kept = os.environ["JAX_COMPILATION_CACHE_DIR"]
    return Path(shutil.copytree(kept, folder, copy_function=os.link))


def free_programs() -> None:
    """JAX forgets what this process has compiled, where that is too much memory."""
    if resident() > MOST_RESIDENT:
        import jax

        jax.clear_caches()
        gc.collect()
        give_back()


def resident() -> int:
    """Bytes of memory that this process has now; on macOS the most it ever had."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def give_back() -> None:
    """Freed memory goes back to the system, where the C library is glibc."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)
