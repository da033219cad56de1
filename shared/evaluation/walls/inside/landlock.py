"""Landlock: files that may be read, one folder to write in, nothing else, and no TCP.

An older kernel knows fewer rights; what it knows is taken. Landlock does not cover
modes, owners and times of files, nor `stat`: seccomp and the private root do.
"""

import os
import stat
import struct

from shared.evaluation.walls.inside.kernel import checked, libc

CREATE, ADD, RESTRICT = 444, 445, 446  # the same numbers on every machine
VERSION, BENEATH = 1, 1
READ_FILE, READ_FOLDER = 1 << 2, 1 << 3
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # version -> bits of files; 16 from 5 on
OF_FILES = 0b1100_0000_0000_0111  # of these a rule about one file may speak
EXECUTE = 1
TCP, SCOPES = 0b11, 0b11  # bind and connect; abstract sockets and signals
WITHOUT_TRUNCATE = 2  # the last version that does not stop `open(..., O_TRUNC)`


def version() -> int:
    """Of the kernel's Landlock.

    Raises:
      OSError: if it has none, or it is switched off.
    """
    return checked(libc.syscall(CREATE, None, 0, VERSION), "landlock")


def restrict(readable: list[str], writable: list[str], *, alone: bool) -> None:
    """Closes everything else to this process, for good.

    Files and folders in `readable` may be read with all that is in them, those in
    `writable` be written too. Paths that are not there are passed over.

    Args:
      readable, writable: absolute paths.
      alone: whether no private root stands behind it.

    Raises:
      OSError: if the kernel refuses, or its Landlock is too old to be alone.
    """
    known = version()
    if alone and known <= WITHOUT_TRUNCATE:
        raise OSError(f"landlock must be of version 3, got {known}")
    files = (1 << RIGHTS.get(known, 16)) - 1
    sizes = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}
    rules = struct.pack("=QQQ", files, TCP, SCOPES)[: sizes.get(known, 24)]
    ruleset = checked(libc.syscall(CREATE, rules, len(rules), 0), "landlock rules")
    for path in readable:
        allow(ruleset, path, READ_FILE | READ_FOLDER)
    for path in writable:
        allow(ruleset, path, files & ~EXECUTE)
    checked(libc.syscall(RESTRICT, ruleset, 0), "landlock restriction")
    os.close(ruleset)


def allow(ruleset: int, path: str, rights: int) -> None:
    """Adds one rule."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= OF_FILES
        rule = struct.pack("=Qi", rights, place)
        checked(libc.syscall(ADD, ruleset, BENEATH, rule, 0), f"landlock of {path}")
    finally:
        os.close(place)
