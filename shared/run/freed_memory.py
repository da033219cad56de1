"""Keeps freed memory for the next step, where the C library would give it back.

A step on the CPU takes and frees gigabytes. glibc gives a large block back to the
system at once, so that every step touches new pages: half a million page faults and a
tenth of the time of a step of DistilGPT2's shape (`benchmarks/README.md`).
"""

import ctypes
import os
import platform

# mallopt's parameters, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
NEVER = -1
_one_heap: list[bool] = []  # whether this process has asked for it


def use_one_heap() -> bool:
    """Lets all threads allocate from one heap; True where that can be asked for.

    To be called when a program starts, before there are threads. What the user has set
    by `MALLOC_...` or `GLIBC_TUNABLES` stands; other C libraries are left alone.
    """
    own = [x for x in os.environ if x.startswith("MALLOC_") or x == "GLIBC_TUNABLES"]
    _one_heap[:] = [not own and _set(ARENA_MAX, 1)]
    return _one_heap[0]


def keep_freed_memory() -> bool:
    """From now on what is freed is kept; True where it is. Needs `use_one_heap`.

    To be called before the first step, when models are loaded and programs compiled:
    large blocks then come from the heap instead of mappings of their own, and its top
    is never trimmed. What was freed before that has gone back to the system.
    """
    return _one_heap == [True] and _set(MMAP_MAX, 0) and _set(TRIM_THRESHOLD, NEVER)


def _set(parameter: int, value: int) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    return ctypes.CDLL(None).mallopt(parameter, value) == 1
