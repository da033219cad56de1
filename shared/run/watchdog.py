"""Ends a run in which nothing moves any more, and says who stands still.

A thread beside the trainer looks every second at what the trainer does (`now`). A step,
an evaluation or a save that takes `factor` times the median of those before, and
`least` seconds, is over: the stacks of all threads go to RUN/stacks-PROCESS.txt and to
stderr, one line names the process that stands still, and the process ends with the exit
code `STALLED`. Checkpoints are whole whenever that comes: the same command goes on.

With several processes each tells the others what it does. One that is not heard of any
more (killed, stopped, its machine gone) ends the others in the same way. JAX itself
would wait for it in a collective operation, for ever with some.
"""

import faulthandler
import json
import logging
import os
import socket
import statistics
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.run.leave import leave
from shared.run.peers import Peers, Stalled, name_of
from shared.tracking import console

log = logging.getLogger("wmtp")
# What a trainer does, in the order in which it does it for one step.
ORDER = ("data", "step", "evaluation", "checkpoint")
FIRST = 3600.0  # seconds that the first of its kind may take
SILENCE = 60.0  # seconds after which a peer is missed, or sooner (`least`)
KEPT = 101  # times of a kind, of which the median is taken


@dataclass
class Heard:
    """The last word of a process.

    Attributes:
      doing, number: what it does, of which step.
      at: when something new was heard of it, by `time.monotonic`.
    """

    at: float
    doing: str = "start"
    number: int = 0
    host: str = ""
    text: str = ""


@dataclass(kw_only=True)
class Watchdog:
    """Watches the trainer of this process, and hears of its peers.

    Attributes:
      factor: times the median that are too long; 0 watches nothing.
      least: seconds below which nothing is too long.
      slack: seconds more for an evaluation.
      peers: the processes of the run.
      folder: of the run, once there is one.
      end: what ends the process.
    """

    factor: float
    least: float
    slack: float = 0.0
    peers: Peers = field(default_factory=Peers)
    folder: Path | None = None
    end: Callable[[int], Any] = os._exit
    _doing: str = "start"
    _number: int = 0
    _beat: int = 0
    _since: float = 0.0
    _answered: float = 0.0
    _times: dict[str, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=KEPT))
    )
    _heard: dict[int, Heard] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Watchdog":
        self._since = self._answered = time.monotonic()
        others = range(self.peers.count) if self.peers.count > 1 else ()
        self._heard = {i: Heard(self._since) for i in others if i != self.peers.index}
        loops = [self._watch] if self.factor else []
        loops += [self._speak] if self._heard else []  # JAX's own error needs it, too
        for loop in loops:
            self._threads.append(threading.Thread(target=loop, daemon=True))
            self._threads[-1].start()
        return self

    def over(self) -> None:
        """From now on nothing is too long, and nobody missed."""
        self._over.set()

    def __exit__(self, *raised: Any) -> None:
        self.over()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2 * self.tick)

    @property
    def tick(self) -> float:
        """Seconds between two looks."""
        return min(1.0, self.least / 10)

    @property
    def silence(self) -> float:
        """Seconds without a word after which a peer is missed."""
        return min(SILENCE, self.least)

    def now(self, doing: str, number: int) -> None:
        """Notes what the trainer begins; what it did until now is over.

        Args:
          doing: of `ORDER`; anything else may take as long as it likes.
          number: of the step.
        """
        at = time.monotonic()
        with self._lock:
            self._times[self._doing].append(at - self._since)
            self._doing, self._number, self._since = doing, number, at

    def limit(self, doing: str) -> float:
        """Seconds that it may take."""
        if doing not in ORDER or not self.factor:
            return float("inf")
        slack = self.slack if doing == "evaluation" else 0.0
        times = self._times[doing]
        if not times:
            return max(self.least, FIRST) + slack
        return max(self.least, self.factor * statistics.median(times)) + slack

    def missed(self) -> Stalled:
        """Who is gone, once this process has failed for want of a peer.

        It waits a few looks: an error may be quicker than the news of its reason.
        """
        until = time.monotonic() + 5 * self.tick + 1.0
        while time.monotonic() < until:
            if (left := self._left()) is not None:
                return left
            time.sleep(self.tick / 2)
        now = time.monotonic()
        gone = self._silent(3 * self.tick, now)
        if not gone:
            return Stalled("a peer is gone, nobody knows which")
        return self._not_heard(gone, now)

    def _watch(self) -> None:
        """The thread that ends the process."""
        last = time.monotonic()
        while not self._over.wait(self.tick):
            now = time.monotonic()
            if (away := now - last - self.tick) > max(1.0, 5 * self.tick):
                self._was_away(away)  # stopped and continued: nobody else was at fault
            last = now
            reason = self._stalled(now) or self._lost(now)
            if reason is not None:
                self._stop(reason)
                return

    def _was_away(self, seconds: float) -> None:
        with self._lock:
            self._since += seconds
        self._answered += seconds
        for heard in self._heard.values():
            heard.at += seconds

    def _stalled(self, now: float) -> Stalled | None:
        with self._lock:
            doing, number, seconds = self._doing, self._number, now - self._since
            limit = self.limit(doing)
            times = list(self._times[doing])
        if seconds <= limit:
            return None
        usual = f", {statistics.median(times):.3g} s as a rule" if times else ""
        return Stalled(
            f"nothing has moved for {seconds:.1f} s (limit {limit:.1f} s{usual}): "
            f"{doing} of step {number}; {self._behind(doing, number)}"
        )

    def _behind(self, doing: str, number: int) -> str:
        """The processes that the others wait for."""
        places = {i: (x.number, x.doing, x.host) for i, x in self._heard.items()}
        places[self.peers.index] = (number, doing, socket.gethostname())
        order = {i: (n, _order(what)) for i, (n, what, _) in places.items()}
        least = min(order.values())
        late = [i for i in sorted(order) if order[i] == least]
        if len(late) == len(order):
            return "every process is there" if len(order) > 1 else self.peers.name
        return ", ".join(
            f"{name_of(i, self.peers.count, places[i][2])} is behind: "
            f"{places[i][1]} of step {places[i][0]}"
            for i in late
        )

    def _lost(self, now: float) -> Stalled | None:
        if not self._heard:
            return None
        if (left := self._left()) is not None:
            return left
        gone = self._silent(self.silence, now)
        return self._not_heard(gone, now) if gone else None

    def _silent(self, seconds: float, now: float) -> list[int]:
        """Processes that are not heard of; the first where its board does not answer.

        Of the others nothing is known since then.
        """
        if not self.peers.is_first and now - self._answered > seconds:
            return [0]
        known = self._answered
        return [i for i, x in self._heard.items() if known - x.at > seconds]

    def _left(self) -> Stalled | None:
        """What a process has said that ended by itself; its exit code is ours, too."""
        for index, heard in self._heard.items():
            if heard.doing == "left":
                code, line = json.loads(heard.text)
                who = name_of(index, self.peers.count, heard.host)
                return Stalled(f"{who} has ended: {line}", code)
        return None

    def _not_heard(self, gone: list[int], now: float) -> Stalled:
        names = [
            f"{name_of(i, self.peers.count, self._heard[i].host)} has not been heard "
            f"of for {now - self._heard[i].at:.1f} s (its last word: "
            f"{self._heard[i].doing} of step {self._heard[i].number})"
            for i in gone
        ]
        return Stalled(", ".join(names))

    def _speak(self) -> None:
        """The thread that tells and hears; a board that does not answer holds it."""
        while not self._over.wait(self.tick):
            self._beat += 1
            with self._lock:
                word = [self._beat, self._doing, self._number, socket.gethostname()]
            with suppress(Exception):  # of a first process that is gone: it is missed
                board = self.peers.board
                board.put(f"alive/{self.peers.index}", json.dumps(word))
                self._hear(board.under("alive"), board.under("left"))
                self._answered = time.monotonic()

    def _hear(self, alive: dict[str, str], left: dict[str, str]) -> None:
        now = time.monotonic()
        for index, heard in self._heard.items():
            text = alive.get(str(index), "")
            if str(index) in left:
                heard.doing, heard.text = "left", left[str(index)]
            elif text != heard.text:
                _, doing, number, host = json.loads(text)
                self._heard[index] = Heard(now, doing, number, host, text)

    def _stop(self, reason: Stalled) -> None:
        """Dumps the stacks, says why, ends the process."""
        if not self._ended.acquire(blocking=False):
            return
        place = self.folder / f"stacks-{self.peers.index}.txt" if self.folder else None
        with suppress(OSError, ValueError):
            faulthandler.dump_traceback(2)  # whatever stands in stderr's place
        if place is not None:
            with suppress(OSError), place.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {reason}\n")
                file.flush()
                faulthandler.dump_traceback(file)
        line = f"{self.peers.name}: {reason}"
        if self.folder is not None:
            line += f"; stacks: {place}; go on: --resume {self.folder}"
        log.error("%s", line, extra={"file_only": True})
        console.say(f"error: {line}", sys.stderr)
        leave(self.peers, reason.code, str(reason), self.end)


def _order(doing: str) -> int:
    return ORDER.index(doing) if doing in ORDER else -1
