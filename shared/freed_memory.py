"""Keeps freed memory for the next step, where the C library would give it back.

A step on the CPU takes and frees gigabytes. glibc gives a large block back to the
system at once, so that every step touches new pages: half a million page faults and a
tenth of the time, of SmolLM2 as of DistilGPT2 (`benchmarks/README.md`).
"""

import ctypes
import os
import platform

# mallopt's parameters, from glibc's malloc.h.
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
NEVER = -1


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep what is freed; True where it does.

    To be called before there are threads. Blocks come from one growing heap instead of
    mappings of their own, and its top is never trimmed. What the user has set by
    `MALLOC_...` or `GLIBC_TUNABLES` stands; other C libraries are left alone.
    """
    own = [x for x in os.environ if x.startswith("MALLOC_") or x == "GLIBC_TUNABLES"]
    if own or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, NEVER))
    return all([mallopt(*setting) == 1 for setting in settings])
