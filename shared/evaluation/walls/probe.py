"""Which rung of the ladder holds here, found by trying to break out."""

import socket
import sys
import tempfile
import threading
from pathlib import Path

from shared.evaluation.verdicts import Limits
from shared.evaluation.walls import seatbelt
from shared.evaluation.walls.child import Child, Stopped
from shared.evaluation.walls.levels import (
    LADDER,
    SEATBELT,
    UNSAFE,
    Level,
    SandboxError,
)

# What has to fail, as an expression that is true if it does not. On a Mac the loader
# reads what a profile cannot close, so that only writing is tried.
READS = "open({path!r}).read() is not None"
BREACHES = {
    "a file can be written": "open({path!r}, 'a').close() is None",
    "a process can be started": "__import__('os').fork() >= 0",
    "a socket can be connected": "__import__('socket').create_connection("
    "('127.0.0.1', {port}), 1) is not None",
}
LOCK = threading.Lock()
FOUND: dict[str, Level] = {}


def strongest() -> Level:
    """The strongest level that holds here; found once a process.

    Raises:
      SandboxError: if none does, with what failed at each.
    """
    with LOCK:
        if "strongest" not in FOUND:
            FOUND["strongest"] = _find()
        return FOUND["strongest"]


def _find() -> Level:
    rungs = [*LADDER] if sys.platform == "linux" else []
    rungs += [SEATBELT] if seatbelt.available() else []
    failed = []
    for level in rungs:
        why = weakness(level)
        if not why:
            return level
        failed.append(f"{level.name}: {why}")
    raise SandboxError(
        "running a program needs a sandbox, got none here "
        f"({'; '.join(failed) or f'{sys.platform} has none'}); --unsafe-execution runs "
        "programs without one"
    )


def weakness(level: Level) -> str:
    """Why a level does not hold here; empty if it does."""
    limits = Limits()
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        path = Path(folder) / "canary"
        path.write_text("canary")
        breaches = dict(BREACHES)
        if level != SEATBELT:
            breaches["a file can be read"] = READS
        try:
            with Child("worker", level, limits, cpu_seconds=5, wall=30) as child:
                for what, expression in breaches.items():
                    port = server.getsockname()[1]
                    tried = expression.format(path=str(path), port=port)
                    if not child.ask(f"e{tried}").startswith('["raised"'):
                        return what
        except (SandboxError, Stopped, OSError) as error:
            return str(error)
    return ""


def level_for(*, unsafe: bool) -> Level:
    """The strongest level, or none at all if that is what the caller wants.

    Raises:
      SandboxError: as `strongest`.
    """
    return UNSAFE if unsafe else strongest()
