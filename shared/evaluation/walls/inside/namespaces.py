"""Namespaces: a network, processes, IPC, a host name and a root folder of its own.

A plain user makes a user namespace first, in which it may make the others. Root needs
none for that; it becomes nobody afterwards, since root has no limit of threads.
The private root holds only what Python reads, read-only, and a scratch folder in
memory.
"""

import os
import struct

from shared.evaluation.walls.inside.kernel import PR_SET_DUMPABLE, checked, libc

MOUNTS, CGROUPS, HOST, IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
USERS, PROCESSES, NETWORK = 0x10000000, 0x20000000, 0x40000000
ALL_BUT_USERS = MOUNTS | CGROUPS | HOST | IPC | PROCESSES | NETWORK
BIND, RECURSIVE, PRIVATE, DETACH = 0x1000, 0x4000, 0x40000, 2
READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4
MOUNT_SETATTR, HERE, SUBTREE = 442, -100, 0x8000
NOBODY = 65534
SCRATCH = "/tmp"
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
ROOT = "/proc"  # every Linux has this folder, and nobody reads it from here on


def enter(readable: list[str], scratch_bytes: int) -> None:
    """Leaves the host's namespaces; the working folder is then the scratch folder.

    The namespace of processes begins with the next fork.

    Args:
      readable: absolute paths that stay where they are, read-only.
      scratch_bytes: that the scratch folder holds at most.

    Raises:
      OSError: with what was refused.
    """
    root = os.geteuid() == 0
    if not (root and libc.unshare(ALL_BUT_USERS) == 0):
        root = False
        enter_users(ALL_BUT_USERS)
    make_root(readable, scratch_bytes)
    if root:
        become_nobody()


def enter_users(others: int) -> None:
    """A user namespace, in which this user is itself and may do everything."""
    user, group = os.geteuid(), os.getegid()
    checked(libc.unshare(USERS | others), "namespaces")
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{user} {user} 1")
    write("/proc/self/gid_map", f"{group} {group} 1")


def become_nobody() -> None:
    """From root in the host's user namespace to nobody in one of its own."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    # Threads are counted per user namespace: others of nobody's do not matter in it.
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    libc.unshare(USERS)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def make_root(readable: list[str], scratch_bytes: int) -> None:
    """Builds the private root, moves into it and lets go of the host's."""
    mount("none", "/", None, RECURSIVE | PRIVATE)
    mount("tmpfs", ROOT, "tmpfs", NO_SUID | NO_DEVICES, "mode=755,size=1m")
    # The scratch folder first: Python itself may stand beneath the host's.
    scratch = ROOT + SCRATCH
    os.mkdir(scratch)
    options = f"mode=777,size={scratch_bytes},nr_inodes=4096"
    mount("tmpfs", scratch, "tmpfs", NO_SUID | NO_DEVICES, options)
    for path in (*readable, *DEVICES):
        if os.path.exists(path):
            bind(path)
    close(ROOT, READ_ONLY | NO_SUID | NO_DEVICES, 0)
    os.chdir(ROOT)
    checked(libc.pivot_root(b".", b"."), "pivot_root")
    checked(libc.umount2(b".", DETACH), "umount")
    os.chdir(SCRATCH)


def bind(path: str) -> None:
    """Shows a file or folder of the host in the private root, read-only."""
    target = ROOT + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT))
    mount(os.path.realpath(path), target, None, BIND | RECURSIVE)
    attributes = READ_ONLY | NO_SUID | (0 if path in DEVICES else NO_DEVICES)
    close(target, attributes, SUBTREE)


def mount(
    source: str, target: str, kind: str | None, flags: int, options: str = ""
) -> None:
    names = [os.fsencode(x) if x else None for x in (source, target, kind)]
    result = libc.mount(*names, flags, options.encode() or None)
    checked(result, f"mount on {target}")


def close(path: str, attributes: int, flags: int) -> None:
    """Sets what a mount, or all mounts beneath, may no longer do."""
    rows = struct.pack("=QQQQ", attributes, 0, 0, 0)
    name = os.fsencode(path)
    result = libc.syscall(MOUNT_SETATTR, HERE, name, flags, rows, len(rows))
    checked(result, f"read-only {path}")
