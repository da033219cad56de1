"""Signals that tell a program to stop, and the exit code that it then ends with.

    with polite() as stop:
        for ...:
            ...
            if stop.told:
                save()
                raise Stopped(stop.told)

Ctrl-C, SIGTERM (`scancel`, a pod that is removed), SIGHUP (a closed terminal), SIGXCPU
and SIGUSR1 or SIGUSR2 (what SLURM's `--signal` sends before the time is over) mean the
same. The exit code is 128 + the signal's number, as of a shell.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
SIGNALS = tuple(
    getattr(signal, name) for name in NAMES if hasattr(signal, name)
)  # Windows has two of them
CODES = tuple(128 + number for number in SIGNALS)


class Stopped(KeyboardInterrupt):
    """A program was told to stop, by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def code_of(error: KeyboardInterrupt) -> int:
    """The exit code of a program that it ends; 130 where nobody says which signal."""
    return 128 + int(getattr(error, "number", signal.SIGINT))


class Stop:
    """Which signal has come, if any.

    Attributes:
      told: its number, or 0.
    """

    told = 0

    def take(self, number: int, frame: Any) -> None:
        """Notes a signal. A second Ctrl-C does not wait for what the first one asks.

        Others may come twice, from a scheduler and from the shell below it.
        """
        if self.told and number == signal.SIGINT:
            raise Stopped(number)
        self.told = self.told or number


def _raise(number: int, frame: Any) -> None:
    raise Stopped(number)


@contextmanager
def at_once() -> Iterator[None]:
    """Signals raise `Stopped` wherever the program is."""
    with _handled(_raise):
        yield


@contextmanager
def polite() -> Iterator[Stop]:
    """Signals are only noted, until whoever reads `told` comes to a good moment."""
    stop = Stop()
    with _handled(stop.take):
        yield stop


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    with ExitStack() as after:
        for number in SIGNALS:
            before = signal.getsignal(number)
            # `nohup` ignores one; what none of Python has set cannot be put back.
            if before is None or (before == signal.SIG_IGN and number != signal.SIGINT):
                continue
            signal.signal(number, handler)
            after.callback(signal.signal, number, before)
        yield
