"""A filter in the kernel that lets through the system calls of `system_calls`.

Classic BPF as `man 2 seccomp` describes it: each instruction is a code, two jumps (if
true, if false) and a constant. The filter cannot be taken off again.
"""

import ctypes
import os
import struct
import sys

from shared.evaluation.walls.inside.kernel import checked, libc
from shared.evaluation.walls.inside.system_calls import (
    NAMESPACES,
    THREAD,
    conditions,
    numbers,
)

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_...
X32 = 0x40000000  # numbers from here on belong to the other ABI of x86_64
LOAD, RETURN = 0x20, 0x06
EQUAL, GREATER, AT_LEAST, ANY_BIT = 0x15, 0x25, 0x35, 0x45
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x00050000 | 1, 0x00050000 | 38
PR_SET_SECCOMP, FILTER = 22, 2

Instruction = tuple[int, int, int, int]


def low(argument: int) -> Instruction:
    """Loads the low half of an argument; both machines are little-endian."""
    return (LOAD, 0, 0, ARGUMENTS + 8 * argument)


def one_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    """Lets a call through whose argument is one of the values."""
    block = [low(argument)]
    for value in values:
        block += [(EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW)]
    return [*block, (RETURN, 0, 0, EPERM)]


def threads_only() -> list[Instruction]:
    """`clone`: a thread of this process, in its namespaces."""
    return [
        low(0),
        (ANY_BIT, 2, 0, NAMESPACES),
        (ANY_BIT, 0, 1, THREAD),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, EPERM),
    ]


def without_address() -> list[Instruction]:
    """`sendto` to a socket's other end: the pointer to an address is null."""
    high = (LOAD, 0, 0, ARGUMENTS + 8 * 4 + 4)
    return [
        low(4),
        (EQUAL, 0, 3, 0),
        high,
        (EQUAL, 0, 1, 0),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, EPERM),
    ]


def filter_for(machine: str, process: int) -> list[Instruction]:
    """The whole filter, for one machine and the process that it will stand in.

    Raises:
      KeyError: for another machine than x86_64 and aarch64.
    """
    allowed = numbers(machine)
    blocks = {name: one_of(*row) for name, row in conditions(process).items()}
    blocks |= {"clone": threads_only(), "sendto": without_address()}
    found = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, ARCHITECTURES[machine]),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    if machine == "x86_64":
        found += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for name, block in blocks.items():
        found += [(EQUAL, 0, len(block), allowed.pop(name)), *block]
    for first, last in ranges(sorted(allowed.values())):
        found += [
            (AT_LEAST, 0, 2, first),
            (GREATER, 1, 0, last),
            (RETURN, 0, 0, ALLOW),
        ]
    # As an older kernel answers: libraries then take the call that they used before.
    return [*found, (RETURN, 0, 0, ENOSYS)]


def ranges(values: list[int]) -> list[tuple[int, int]]:
    """First and last of each run of successive numbers.

    Example:
      >>> ranges([1, 2, 3, 7])
      [(1, 3), (7, 7)]
    """
    found: list[tuple[int, int]] = []
    for value in values:
        if found and found[-1][1] == value - 1:
            found[-1] = (found[-1][0], value)
        else:
            found.append((value, value))
    return found


def install() -> None:
    """Puts the filter before this process, for good; `keep_privileges` comes first.

    Raises:
      OSError: if the kernel has none, or this machine's numbers are not known.
    """
    machine = os.uname().machine
    if machine not in ARCHITECTURES or sys.byteorder != "little":
        raise OSError(f"seccomp needs x86_64 or aarch64, got {machine}")
    rows = filter_for(machine, os.getpid())
    code = b"".join(struct.pack("=HBBI", *row) for row in rows)
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(rows), ctypes.addressof(text))
    checked(libc.prctl(PR_SET_SECCOMP, FILTER, program, 0, 0), "seccomp")
