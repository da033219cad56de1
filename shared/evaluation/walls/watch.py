"""What no limit of the kernel's holds, looked at from outside while a child runs."""

import subprocess
import sys
import time
from pathlib import Path

from shared.evaluation.verdicts import Limits, Outcome
from shared.evaluation.walls import scratch

EVERY = 0.1  # seconds between two looks
NEVER = 3600.0


class Watch:
    """Looks after one process and its folder.

    A scratch folder on disk has no size that the kernel would hold it to, and macOS has
    no limit of memory.

    Attributes:
      every: seconds to wait at most until the next look.
    """

    def __init__(self, limits: Limits, process: int, folder: Path | None) -> None:
        self.limits, self.process, self.folder = limits, process, folder
        self.memory = sys.platform == "darwin"
        self.every = EVERY if folder or self.memory else NEVER
        self.next = time.monotonic() + EVERY

    def look(self) -> Outcome | None:
        """What the process has to be stopped for, if it has."""
        if self.every == NEVER or time.monotonic() < self.next:
            return None
        self.next = time.monotonic() + EVERY
        most = self.limits.scratch_bytes
        if self.folder and scratch.size(self.folder, most) > most:
            return "too much output"
        if self.memory and resident_bytes(self.process) > self.limits.memory_bytes:
            return "out of memory"
        return None


def resident_bytes(process: int) -> int:
    """Memory of a process in use, by `ps`; 0 if it has ended."""
    command = ["ps", "-o", "rss=", "-p", str(process)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return 1024 * int(told.stdout.strip() or 0)
