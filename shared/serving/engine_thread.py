"""One thread that runs the engine; coroutines ask it and wait for pieces.

    async with thread.asking(requests) as job:
        async for pieces in job:
            for prompt, piece in pieces:
                ...

What is asked at one moment is submitted before the next step, and so shares batches.
Leaving the block, however it is left, frees the rows of what still runs.
"""

import asyncio
import queue
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from shared.decoding.requests import Piece, Request
from shared.messages import first_line, named_line
from shared.serving.refusals import Refused
from shared.tracking.console import LOGGER

Event = tuple[int, Piece] | Refused  # number of the prompt in its job, and a piece


class Engine(Protocol):
    """What decodes; one thread calls it."""

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""

    def submit(self, request: Request) -> int:
        """Takes a request; ValueError if it cannot be answered."""

    def cancel(self, number: int) -> None:
        """Frees the rows of a request."""

    def step(self) -> list[Piece]:
        """Goes on with all requests by a few tokens."""


@dataclass(eq=False)
class Job:
    """The requests of one body, until all their samples have ended.

    Attributes:
      numbers: of those that run -> which of the requests, and how many samples of it
        have not ended; the engine's thread alone looks at it.
      ended: whether the thread is done with it.
      finished: how many samples have ended, for who waits.
    """

    requests: Sequence[Request]
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    numbers: dict[int, list[int]] = field(default_factory=dict)
    ended: bool = False
    finished: int = 0

    @property
    def samples(self) -> int:
        """Over all its requests."""
        return sum(request.samples for request in self.requests)

    def __aiter__(self) -> "Job":
        return self

    async def __anext__(self) -> list[tuple[int, Piece]]:
        """All pieces that are there, at least one, each with the number of its request.

        So a client that reads slowly gets them in one go.
        """
        if self.finished == self.samples:
            raise StopAsyncIteration
        events = [await self.events.get()]
        while not self.events.empty():
            events.append(self.events.get_nowait())
        pieces = []
        for event in events:
            if isinstance(event, Refused):
                raise event
            self.finished += event[1].finish != ""
            pieces.append(event)
        return pieces


class EngineThread:
    """Runs an engine, of which it makes a new one where a step has failed.

    Attributes:
      engine: that runs; None while a new one is made.
      held: samples that run or wait, at most `capacity`.
      failed: what ended the thread, if not `stop`.
    """

    def __init__(self, make_engine: Callable[[], Engine], capacity: int) -> None:
        """Makes the first engine here, so that its errors are the caller's.

        Args:
          make_engine: called again after a failure.
          capacity: samples at once; more are refused.
        """
        self.make_engine, self.capacity = make_engine, capacity
        self.held = 0
        self.failed: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None
        self._jobs: set[Job] = set()  # the loop's; those of the thread are `_running`
        self._running: dict[int, Job] = {}
        self._commands: queue.SimpleQueue[Callable[[], None] | None]
        self._commands = queue.SimpleQueue()
        self.engine: Engine | None = make_engine()
        self._thread = threading.Thread(target=self._run, name="engine")
        self._stopping = False

    def start(self, on_failure: Callable[[], None] = lambda: None) -> None:
        """Called in the loop that asks; `on_failure` is, if the thread ends itself."""
        self._loop = asyncio.get_running_loop()
        self.on_failure = on_failure
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._stopping and not self.failed

    def stop(self) -> None:
        """Ends what runs, in the loop; the thread ends after its present step."""
        self._stopping = True
        for job in self._jobs:
            job.events.put_nowait(_unavailable())
        self._commands.put(None)

    def join(self) -> None:
        """Waits for the thread, after `stop`."""
        if self._thread.ident is not None:
            self._thread.join()

    @asynccontextmanager
    async def asking(self, requests: Sequence[Request]) -> AsyncIterator[Job]:
        """Submits requests, and frees their rows at the end.

        Raises:
          Refused: 429 if too many wait already, 503 if the thread is stopping. The
            job raises it for what the engine does not take (400) or fails in (500).
        """
        job = Job(requests)
        if not self.alive:
            raise _unavailable()
        if self.held + job.samples > self.capacity:
            raise Refused(
                f"no more than {self.capacity} samples can run and wait, "
                f"{self.held} do: try again later",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                code="rate_limit_exceeded",
                headers={"Retry-After": "1"},
            )
        self.held += job.samples
        self._jobs.add(job)
        self._commands.put(lambda: self._submit(job))
        try:
            yield job
        finally:
            self._jobs.discard(job)
            self._commands.put(lambda: self._cancel(job))

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # a mistake here: nobody is to wait for nothing
            self.failed = error
        if self.failed:
            self._tell(self._fail)

    def _work(self) -> None:
        for command in self._waiting_commands():
            try:
                if command is not None:
                    command()
                elif self.engine is not None:
                    self._hand_out(self.engine.step())
            except Exception as error:
                self._renew(error)
            if self.failed:
                return

    def _waiting_commands(self) -> Iterator[Callable[[], None] | None]:
        """Commands as they come; None where it is time for a step. Ends at `stop`."""
        while True:
            idle = self.engine is None or not self.engine.busy
            try:
                command = self._commands.get(block=idle)
            except queue.Empty:
                yield None
                continue
            if command is None:
                return
            yield command

    def _submit(self, job: Job) -> None:
        assert self.engine is not None
        for i, request in enumerate(job.requests):
            try:
                number = self.engine.submit(request)
            except Exception as error:
                bad = isinstance(error, ValueError)
                self._refuse(job, Refused(first_line(error)) if bad else _broken(error))
                return
            self._running[number] = job
            job.numbers[number] = [i, request.samples]

    def _refuse(self, job: Job, refused: Refused) -> None:
        self._tell(lambda: job.events.put_nowait(refused))
        self._cancel(job)

    def _cancel(self, job: Job) -> None:
        numbers = list(job.numbers)
        job.numbers.clear()
        self._release(job)
        for number in numbers:
            self._running.pop(number, None)
            if self.engine is not None:
                self.engine.cancel(number)

    def _release(self, job: Job) -> None:
        if not job.ended:
            job.ended = True
            self._tell(lambda: self._give_back(job.samples))

    def _give_back(self, samples: int) -> None:
        self.held -= samples

    def _hand_out(self, pieces: list[Piece]) -> None:
        """To each job its pieces, all in one call of the loop."""
        handed: list[tuple[Job, Event]] = []
        for piece in pieces:
            job = self._running.get(piece.request)
            if job is None:  # of one that was cancelled
                continue
            running = job.numbers[piece.request]
            if piece.finish == "cancelled":  # by nobody here
                raise RuntimeError("the engine has given up a request")
            handed.append((job, (running[0], piece)))
            running[1] -= piece.finish != ""
            if not running[1]:
                del job.numbers[piece.request], self._running[piece.request]
            if not job.numbers:
                self._release(job)
        self._tell(lambda: _put(handed))

    def _renew(self, error: Exception) -> None:
        """Ends what runs, and makes a new engine: who knows what the old one holds."""
        LOGGER.error("the engine failed: %s", named_line(error))
        LOGGER.debug("%s", "".join(traceback.format_exception(error)))
        for job in set(self._running.values()):
            job.numbers.clear()
            self._refuse(job, _broken(error))
        self._running.clear()
        self.engine = None  # frees its memory before the next takes as much
        error.__traceback__ = None
        try:
            self.engine = self.make_engine()
        except Exception as again:
            self.failed = again

    def _fail(self) -> None:
        for job in self._jobs:
            job.events.put_nowait(_unavailable())
        self.on_failure()

    def _tell(self, call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call)


def _put(handed: list[tuple[Job, Event]]) -> None:
    for job, event in handed:
        job.events.put_nowait(event)


def _broken(error: BaseException) -> Refused:
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Refused(f"decoding failed: {named_line(error)}", status=status)


def _unavailable() -> Refused:
    status = HTTPStatus.SERVICE_UNAVAILABLE
    return Refused("the server is shutting down", status=status)
