"""Calls of Linux that Python's library has no name for."""

import ctypes
import os
import struct

libc = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


def checked(result: int, what: str) -> int:
    """The result of a call of libc.

    Raises:
      OSError: with its errno and what was tried, if it failed.
    """
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def die_with_parent(parent: int) -> None:
    """SIGKILL to this process as soon as process number `parent` has ended."""
    checked(libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "parent death signal")
    if os.getppid() != parent:
        os._exit(1)


def keep_privileges() -> None:
    """No program that is started may gain any, which walls of a plain user need."""
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def drop_capabilities() -> None:
    """What root may do and others may not, this process may do no more."""
    header = struct.pack("=Ii", CAPABILITIES, 0)
    checked(libc.capset(header, bytes(24)), "capset")
