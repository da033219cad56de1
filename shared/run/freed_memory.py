"""Keeps freed memory for the next step, where the C library would give it back.

A step on the CPU takes and frees gigabytes. glibc gives a large block back to the
system at once, so that every step touches new pages: half a million page faults and a
tenth of the time of a step of DistilGPT2's shape (`benchmarks/README.md`). What is kept
is what a step frees, until the next; a checkpoint needs other blocks, so that before it
all goes back.
"""

import ctypes
import os
import platform
from pathlib import Path

# mallopt's parameters and the values they have by themselves, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}
USUAL = {MMAP_MAX: 65536, TRIM_THRESHOLD: 128 * 1024}
GROWTH = 1.1  # the most by which the process may grow over its size after a first step
_one_heap: list[bool] = []  # whether this process has asked for it
_pages: list[int] = []  # in memory after each step since it keeps them; at most two


def use_one_heap() -> bool:
    """Lets all threads allocate from one heap; True where that can be asked for.

    To be called when a program starts, before there are threads. What the user has set
    by `MALLOC_...` or `GLIBC_TUNABLES` stands; other C libraries are left alone.
    """
    own = [x for x in os.environ if x.startswith("MALLOC_") or x == "GLIBC_TUNABLES"]
    _one_heap[:] = [not own and _set({ARENA_MAX: 1})]
    return _one_heap[0]


def keep_freed_memory() -> bool:
    """What the coming step frees is kept; True where it is. Needs `use_one_heap`.

    To be called before every step: large blocks then come from the heap instead of
    mappings of their own, and its top is not trimmed. Before the first of them, and
    when the process has grown by a tenth since, what is free goes back once: small
    blocks in the hole that a large one left make the next take its place elsewhere.
    """
    if _one_heap != [True]:
        return False
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    if not _pages:
        give_freed_memory_back()
        _set(KEPT)
    elif len(_pages) > 1 and pages > GROWTH * _pages[1]:
        _trim()
    _pages[len(_pages) :] = [pages][: 2 - len(_pages)]
    return True


def give_freed_memory_back() -> None:
    """All that is free, or will be before the next step, goes back to the system."""
    _pages.clear()
    if _one_heap == [True]:
        _set(USUAL)
        _trim()


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


def _set(parameters: dict[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    malloc = ctypes.CDLL(None)
    return all(malloc.mallopt(name, value) == 1 for name, value in parameters.items())
