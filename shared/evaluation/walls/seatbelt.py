"""macOS: the profile of `sandbox-exec`, which closes what is not named.

The last rule that matches counts. Reading cannot be closed wholly: the loader needs
system folders. Not run on a Mac yet: the tests read the profile and fake the command.
"""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

COMMAND = "sandbox-exec"
SYSTEM = (
    "/usr/lib",
    "/usr/share",
    "/System",
    "/Library/Apple",
    "/private/etc/localtime",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def available() -> bool:
    """Whether this is a Mac that has the command."""
    return sys.platform == "darwin" and shutil.which(COMMAND) is not None


def wrapped(command: Sequence[str], readable: Sequence[str], scratch: str) -> list[str]:
    """The command behind the profile, in which paths have to be resolved ones.

    Args:
      command: whose first word is Python, the only program that may be started.
      readable: files and folders.
      scratch: the one folder that may be written in.
    """
    python = command[0]
    own = [python, sys.base_prefix, str(Path(python).parents[1] / "pyvenv.cfg")]
    paths = dict.fromkeys(os.path.realpath(path) for path in (*own, *readable))
    text = profile([python, *paths], os.path.realpath(scratch), sys.base_prefix)
    return [COMMAND, "-p", text, *command]


def profile(readable: Sequence[str], scratch: str, prefix: str) -> str:
    """The rules, in the order in which later ones win.

    Python is the first that is readable, and starts itself from its prefix.
    """
    reading = " ".join(map(subpath, (*SYSTEM, *readable, scratch)))
    devices = " ".join(f"(literal {quoted(x)})" for x in DEVICES)
    rules = [
        "(version 1)",
        "(deny default)",
        f"(allow file-read* (literal {quoted('/')}) {reading} {devices})",
        "(allow file-read-metadata)",
        f"(allow file-write* {subpath(scratch)})",
        f"(allow file-write-data (literal {quoted('/dev/null')}))",
        "(allow sysctl-read)",
        f"(allow process-exec (literal {quoted(readable[0])}) {subpath(prefix)})",
        "(deny process-fork)",
        "(allow signal (target self))",
        "(deny network*)",
        "(deny mach-lookup)",
        "(deny ipc*)",
    ]
    return "\n".join(rules)


def subpath(path: str) -> str:
    return f"(subpath {quoted(path)})"


def quoted(path: str) -> str:
    r"""A path as a string of the profile's language.

    Example:
      >>> print(quoted('/a"b'))
      "/a\"b"
    """
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
