"""A file of JSON lines that is whole or not there; what is stopped goes on.

Lines are kept in `FILE.partial` as they come, behind one line that tells what was asked
for. Whoever asks for the same again goes on behind the last of them.
"""

import json
import os
from pathlib import Path
from typing import Any

from shared.json_text import parse


class KeptLines:
    """The lines of one output file.

    Attributes:
      lines: those that are there, earlier ones included.
    """

    def __init__(self, path: Path, asked: dict[str, Any], option: str = "--to") -> None:
        """Finds what an earlier call has left.

        Args:
          asked: all that decides the lines, as JSON has it.
          option: what the user has named the file by, for messages.

        Raises:
          ValueError: if the file is there already, cannot be written, or was begun for
            something else.
        """
        self.path, self._partial = path, path.with_name(f"{path.name}.partial")
        self._option = option
        if path.exists():
            raise ValueError(f"{option} must be a new file, got {path}")
        self.lines: list[dict[str, Any]] = []
        self._head = json.dumps(asked, sort_keys=True)
        if not os.access(path.parent, os.W_OK):
            raise ValueError(
                f"{option} must be in a folder that can be written, got {path}"
            )
        if self._partial.exists():
            self._read()

    def add(self, line: dict[str, Any]) -> None:
        """Takes one line; it is on disk when the call returns."""
        if not self.lines and not self._partial.exists():
            self._append(self._head)
        self._append(json.dumps(line, ensure_ascii=False))
        self.lines.append(line)

    def finish(self) -> None:
        """Gives the file its name, with the lines alone."""
        rest = self._partial.read_text("utf-8").partition("\n")[2]
        made = self._partial.with_name(f"{self._partial.name}.tmp")
        made.write_text(rest, "utf-8")
        made.replace(self.path)
        self._partial.unlink()

    def _append(self, text: str) -> None:
        with open(self._partial, "a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        content = self._partial.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:  # of a writer killed in its first line
            self._partial.unlink()
            return
        # JSON leaves in a text what `splitlines` would take for an end of line.
        first, *lines = whole.decode("utf-8", "replace").split("\n")[:-1]
        if first != self._head:
            raise ValueError(
                f"{self._option} must go on with what {self._partial} was begun for, "
                f"got other {_different(first, self._head)} (remove that file to begin "
                "again)"
            )
        try:
            self.lines = [parse(line) for line in lines]
        except ValueError as error:
            raise ValueError(
                f"{self._partial} must hold the lines that were written, got {error} "
                "(remove that file to begin again)"
            ) from None
        if len(whole) < len(content):  # half a line of a killed writer
            with open(self._partial, "r+b") as file:
                file.truncate(len(whole))


def _different(before: str, now: str) -> str:
    """The names of what two heads do not share."""
    try:
        one, other = parse(before), parse(now)
        names = sorted(x for x in one | other if one.get(x) != other.get(x))
    except (ValueError, TypeError, AttributeError):
        names = []  # no head of ours
    return ", ".join(names) or "options"
