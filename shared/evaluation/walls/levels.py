"""How strong a sandbox can be had here: a ladder, probed from the top once a process.

| level | files | network | processes | system calls |
|---|---|---|---|---|
| namespaces | private root + Landlock | none | own numbers, none new | allow-list |
| namespaces without landlock | private root | none | as above | allow-list |
| landlock | Landlock | no sockets | none new | allow-list |
| seatbelt | profile | profile | none new | profile |
| unsafe | - | - | - | - |

Limits of time, memory, files and output hold at every level; `unsafe` is never chosen,
only asked for.
"""

import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
SHARED = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")


class SandboxError(RuntimeError):
    """A sandbox that cannot be had."""


@dataclass(frozen=True)
class Level:
    """One rung.

    Attributes:
      name: that is recorded with every verdict.
      walls: of `namespaces`, `landlock`, `seccomp` and `seatbelt`.
    """

    name: str
    walls: tuple[str, ...]


LADDER = (
    Level("namespaces", ("namespaces", "landlock", "seccomp")),
    Level("namespaces without landlock", ("namespaces", "seccomp")),
    Level("landlock", ("landlock", "seccomp")),
)
SEATBELT = Level("seatbelt", ("seatbelt",))
UNSAFE = Level("unsafe", ())


@cache
def readable_paths(import_paths: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What Python reads when it imports from its library, none beneath another."""
    bases = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    bases |= {f"installed_{name}": path for name, path in bases.items()}
    own = {sysconfig.get_path(x, vars=bases) for x in ("stdlib", "platstdlib")}
    own |= {str(Path(sys.base_prefix) / "lib")}
    paths = sorted({*own, *LIBRARIES, *SHARED, *import_paths})
    found: list[str] = []
    for path in paths:
        beneath = any(path.startswith(f"{above}/") for above in found)
        if os.path.exists(path) and not beneath:
            found.append(path)
    return tuple(found)
