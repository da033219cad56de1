"""One sandboxed process, from its start to the certainty that nothing of it is left."""

import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, Self

from shared.evaluation.verdicts import Limits, Outcome
from shared.evaluation.walls import scratch, seatbelt
from shared.evaluation.walls.inside import frames
from shared.evaluation.walls.levels import Level, SandboxError, readable_paths
from shared.evaluation.walls.watch import Watch

Mode = Literal["worker", "examiner", "script"]
LAUNCH = str(Path(__file__).parent / "inside" / "launch.py")
OURS = str(Path(__file__).parents[2])
PATIENCE = 2.0  # seconds from asking a launcher to end its child to killing it
GRACE = 0.2  # seconds to end by itself for a child that has closed its answers
ERRORS = 4096  # bytes of a child's own errors that are read
PIECE = 2**16  # bytes read at once


class Stopped(Exception):
    """No answer will come."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome: Outcome = outcome


class Child:
    """A process behind the walls of a level; use it in a `with`.

    Attributes:
      cpu_seconds: that it has used, known after its end.
      status: what it ended by, known after its end: < 0 for a signal.
      killed: whether that was from here.
    """

    def __init__(
        self, mode: Mode, level: Level, limits: Limits, *, cpu_seconds: int, wall: float
    ) -> None:
        self.level, self.limits = level, limits
        self.deadline = time.monotonic() + wall
        self.cpu_seconds, self.status = 0.0, 0
        self.ended = self.ready = self.closed = self.killed = False
        self.received = bytearray()
        self.scratch: Path | None = None
        if "namespaces" not in level.walls:  # which have theirs in memory
            self.scratch = Path(tempfile.mkdtemp(prefix="sandbox-")).resolve()
        try:
            self.process = self._start(mode, cpu_seconds)
        except BaseException:
            self._clear()
            raise
        self.requests: IO[bytes] = self.process.stdin  # type: ignore[assignment]
        self.answers: IO[bytes] = self.process.stdout  # type: ignore[assignment]
        self.errors: IO[bytes] = self.process.stderr  # type: ignore[assignment]
        for pipe in (self.requests, self.answers, self.errors):
            os.set_blocking(pipe.fileno(), False)
        self.watch = Watch(limits, self.process.pid, self.scratch)

    def _start(self, mode: Mode, cpu_seconds: int) -> "subprocess.Popen[bytes]":
        """Python without site, in a folder of its own, with almost no environment."""
        limits = self.limits
        command = [sys.executable, "-s", "-S", "-P", LAUNCH]
        options: dict[str, object] = {
            "mode": mode,
            "parent": os.getpid(),
            "walls": ",".join(self.level.walls),
            "read": ":".join(readable_paths(limits.import_paths)),
            "import": ":".join(limits.import_paths),
            "cpu_seconds": cpu_seconds,
        }
        names = ("memory_bytes", "file_bytes", "scratch_bytes", "open_files", "threads")
        options |= {name: getattr(limits, name) for name in names}
        command += [f"{name}={value}" for name, value in options.items()]
        if "seatbelt" in self.level.walls:
            readable = [*readable_paths(limits.import_paths), OURS]
            command = seatbelt.wrapped(command, readable, str(self.scratch))
        environment = {"PYTHONHASHSEED": "0"}
        if limits.import_paths:  # threads of a linear algebra take addresses each
            environment["OPENBLAS_NUM_THREADS"] = "1"
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=self.scratch or "/",
            env=environment,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, text: str) -> str:
        """Sends one message and waits for one.

        Raises:
          Stopped: if none comes.
          SandboxError: if the walls could not be raised.
        """
        self.send(text)
        return self.receive()

    def send(self, text: str) -> None:
        """Raises: as `ask`."""
        self.await_ready()
        left = memoryview(frames.pack(text))
        while left:
            self._wait(self.requests, selectors.EVENT_WRITE)
            left = left[self._write(left) :]

    def receive(self) -> str:
        """Raises: as `ask`."""
        size = int.from_bytes(self._read(4), "little")
        if size > self.limits.answer_bytes:
            raise Stopped("too much output")
        content = self._read(size)
        try:
            return content.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # whoever reads it will refuse it
            return content.decode("ascii", "replace")

    def await_ready(self) -> None:
        """The first message: walls stand, and no line of a program has run."""
        if self.ready:
            return
        self.ready = True
        try:
            said = self.receive()
        except Stopped as stopped:
            if stopped.outcome == "timed out":
                raise
            said = ""
        if said != frames.READY:
            why = self.complaint()
            self.end()
            raise SandboxError(why or f"a child ended with status {self.status}")

    def converse(self, text: bytes) -> bytes:
        """Sends all and closes, reads all; for a script.

        Raises:
          Stopped: if it takes too long or writes more than `answer_bytes`.
        """
        left = memoryview(text)
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            selector.register(self.requests, selectors.EVENT_WRITE)
            while True:
                for key, _ in self._select(selector):
                    if key.fileobj is self.answers:
                        if not self._take():
                            return bytes(self.received)
                        if len(self.received) > self.limits.answer_bytes:
                            raise Stopped("too much output")
                        continue
                    try:
                        left = left[self._write(left) :]
                    except Stopped:  # it does not read on, as a script may
                        left = left[:0]
                    if not left:
                        selector.unregister(self.requests)
                        self.requests.close()

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self.requests.fileno(), data[:PIECE])
        except BlockingIOError:
            return 0
        except OSError:
            raise Stopped("crashed") from None

    def _read(self, count: int) -> bytes:
        while len(self.received) < count:
            self._wait(self.answers, selectors.EVENT_READ)
            if not self._take():
                raise Stopped("crashed")
        found = bytes(self.received[:count])
        del self.received[:count]
        return found

    def _take(self) -> bool:
        """Takes what has been written; False at its end."""
        try:
            part = os.read(self.answers.fileno(), PIECE)
        except BlockingIOError:
            return True
        self.received += part
        self.closed = not part
        return not self.closed

    def _wait(self, pipe: IO[bytes], event: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, event)
            self._select(selector)

    def _select(
        self, selector: selectors.BaseSelector
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Waits, and looks after the child meanwhile."""
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise Stopped("timed out")
            if outcome := self.watch.look():
                raise Stopped(outcome)
            if events := selector.select(min(left, self.watch.every)):
                return events

    def complaint(self) -> str:
        """What the child has said on its descriptor of errors, in one line."""
        try:
            said = os.read(self.errors.fileno(), ERRORS)
        except (OSError, ValueError):
            return ""
        lines = said.decode("ascii", "replace").split("\n")
        return " ".join(lines[-2:]).strip()

    def end(self) -> None:
        """Kills it with all that it has started, and removes its folder."""
        if self.ended:
            return
        self.ended = True
        try:
            # What it ended by itself, if it did, is to be known.
            if not (self.closed and self._reap(GRACE)):
                self.killed = True
                gentle = "namespaces" in self.level.walls
                # Not by Popen, which would wait for it first, and so lose its times.
                kind = signal.SIGTERM if gentle else signal.SIGKILL
                os.kill(self.process.pid, kind)
                if not self._reap(PATIENCE):
                    os.kill(self.process.pid, signal.SIGKILL)
                    self._reap(math.inf)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        finally:
            for pipe in (self.requests, self.answers, self.errors):
                pipe.close()
            self._clear()

    def _clear(self) -> None:
        if self.scratch:
            scratch.remove(self.scratch)

    def _reap(self, seconds: float) -> bool:
        """Waits so long for its end; whether it has come."""
        until, pause = time.monotonic() + seconds, 0.0002
        while True:
            process, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if process:
                break
            if time.monotonic() > until:
                return False
            time.sleep(pause)
            pause = min(pause * 2, 0.01)
        self.status = os.waitstatus_to_exitcode(status)
        self.process.returncode = self.status
        self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return True
