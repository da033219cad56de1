"""The processes that train one model together, seen from one of them.

    peers.is_first                 it writes logs, metrics and exports
    peers.told("run", make)        what `make` gives in the first one, everywhere
    peers.wait("end")              until all have come here
    peers.ask(number)()            the largest number that any of them says

They must do the same things in the same order: a trainer asks all of them, or none.
A backend says what carries the words (`Board`) and the votes.
"""

import itertools
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

STALLED = 75  # exit code: a peer is gone, or nothing moves; the same command goes on
DAY = 86400.0  # a wait that the watchdog ends, not the clock


class Stalled(Exception):
    """A process that waits in vain for another one.

    Args:
      line: who is gone, or stands still.
      code: what the process ends with.
    """

    def __init__(self, line: str, code: int = STALLED) -> None:
        super().__init__(line)
        self.code = code


class Board(Protocol):
    """Words that every process can read, held by the first."""

    def put(self, key: str, text: str) -> None:
        """Writes, also over what stands there."""

    def get(self, key: str, seconds: float) -> str:
        """Reads; waits until it is there."""

    def under(self, prefix: str) -> dict[str, str]:
        """All that stands under `PREFIX/`, without that beginning."""

    def meet(self, name: str, seconds: float) -> None:
        """Waits until every process has come here."""


class NoBoard:
    """Of one process alone: nobody else reads or writes."""

    def put(self, key: str, text: str) -> None: ...

    def get(self, key: str, seconds: float) -> str:
        raise LookupError(f"one process alone waits for {key!r}")

    def under(self, prefix: str) -> dict[str, str]:
        return {}

    def meet(self, name: str, seconds: float) -> None: ...


def _alone(number: int) -> Callable[[], int]:
    return lambda: number


@dataclass(frozen=True, kw_only=True)
class Peers:
    """This process, and how it reaches the others.

    Attributes:
      index, count: this one among all; 0 is the first.
      board: which all of them read.
      ask: `number -> answer`; `answer()` is the largest number of all processes, >= 0.
        Every process asks as often as the others.
      is_of_peers: whether an error is of a peer that is gone, or of this process.
    """

    index: int = 0
    count: int = 1
    board: Board = field(default_factory=NoBoard)
    ask: Callable[[int], Callable[[], int]] = _alone
    is_of_peers: Callable[[BaseException], bool] = lambda error: False
    _turns: Iterator[int] = field(default_factory=itertools.count, compare=False)

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def name(self) -> str:
        """Of this process in messages."""
        return name_of(self.index, self.count, socket.gethostname())

    def told(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives in the first process (JSON), in every one.

        Args:
          name: of what is told, for who looks at a board.

        Raises:
          ValueError, OSError: what `make` raised in the first, in every process.
        """
        if self.count == 1:
            return make()
        key = f"told/{next(self._turns)}-{name}"
        if self.is_first:
            try:
                answer = {"value": make()}
            except (ValueError, OSError) as error:
                bad = isinstance(error, ValueError)
                self.board.put(key, json.dumps({"bad": bad, "error": str(error)}))
                raise
            self.board.put(key, json.dumps(answer))
            return answer["value"]
        answer = json.loads(self.board.get(key, DAY))
        if "error" in answer:
            kind = ValueError if answer["bad"] else OSError
            raise kind(answer["error"])
        return answer["value"]

    def wait(self, name: str) -> None:
        """Until every process has come here."""
        if self.count > 1:
            self.board.meet(f"{next(self._turns)}-{name}", DAY)


ALONE = Peers()


def name_of(index: int, count: int, host: str = "") -> str:
    """A process in messages.

    Example:
      >>> name_of(1, 4, "node2")
      'process 1 of 4 (node2)'
    """
    return f"process {index} of {count}" + f" ({host})" * bool(host)
