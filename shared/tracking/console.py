"""What a person sees of a run: log lines, progress and tables.

On a terminal all three go through one rich console, so that lines appear above a live
bar and never through it. Elsewhere (a pipe, a file, CI) they are plain lines without a
single control character. Both write to stdout; `train.log` gets the same lines with
the time in front, and the progress lines even where the terminal shows a bar.
"""

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import ClassVar, TextIO

import rich.progress
import rich.table
from rich.cells import cell_len, set_cell_size
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.text import Text

from shared.messages import visible

LOGGER = logging.getLogger("wmtp")
CONSOLE = Console(highlight=False)

_first = True  # of several processes; others show no bar
_FILE_ONLY = {"file_only": True}  # `extra` of records that the terminal shows otherwise
_STYLES = {logging.DEBUG: "dim", logging.WARNING: "yellow", logging.ERROR: "red"}


def on_terminal() -> bool:
    """Whether stdout can show a live bar (FORCE_COLOR on a pipe does not count)."""
    shows = CONSOLE.is_terminal and not CONSOLE.is_dumb_terminal
    return _first and shows and sys.stdout.isatty()


def say(text: str, to: TextIO | None = None, end: str = "\n") -> None:
    """Prints on stdout; nobody reading it any more (`| head`) costs no run."""
    try:
        print(text, file=to, end=end, flush=True)
    except OSError:
        flush()


def flush() -> None:
    """Sends nowhere what can be written no more, also what Python holds at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except Exception:  # of whatever stands in its place
            with suppress(OSError, ValueError, AttributeError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def _take_any_text() -> None:
    """Has stdout and stderr write what their encoding lacks as `\\xe9`, never fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _LogFile(logging.FileHandler):
    """`train.log`; a disk that is full costs its lines, and is told by others."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        self.setLevel(logging.CRITICAL + 1)


class _TerminalHandler(logging.Handler):
    """Log lines on stdout; a closed pipe silences them and does not stop the run."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False):
            return
        warning = record.levelno >= logging.WARNING
        text = f"{record.levelname.lower()}: " * warning + visible(self.format(record))
        try:
            if on_terminal():
                style = _STYLES.get(record.levelno, "")
                # soft_wrap: a path longer than the line can still be copied whole.
                CONSOLE.print(Text(text, style=style), soft_wrap=True)
            else:
                say(text)
        except OSError:
            flush()


def setup_logging(run_folder: Path | None, verbose: bool) -> logging.Logger:
    """Sends the logger `wmtp` to stdout and, appending, to `train.log`.

    Args:
      run_folder: an existing folder for `train.log`; None writes no file (dry run).
      verbose: debug lines too.

    Returns:
      The logger. A second call replaces what the first one set up.
    """
    close_logging()
    _take_any_text()
    LOGGER.addHandler(_TerminalHandler())
    LOGGER.setLevel(logging.DEBUG if verbose else logging.INFO)
    LOGGER.propagate = False  # libraries put handlers on the root: no line twice
    if run_folder is not None:
        LOGGER.addHandler(_LogFile(run_folder / "train.log"))
    return LOGGER


def follow(name: str) -> None:
    """Leaves to the first of several processes what people read; warnings stay.

    Args:
      name: of this process, which stands before them.
    """
    global _first
    close_logging()
    _first = False
    handler = _TerminalHandler(logging.WARNING)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.WARNING)
    LOGGER.propagate = False


def close_logging() -> None:
    """Closes `train.log` and leaves the logger as it was before `setup_logging`."""
    for handler in list(LOGGER.handlers):
        if isinstance(handler, (_TerminalHandler, logging.FileHandler)):
            LOGGER.removeHandler(handler)
            handler.close()
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True


def number(value: object) -> str:
    """A value as people read it.

    Four significant digits for a float, groups of three digits from 10 000 on for
    whole numbers, anything else as it is.

    Example:
      >>> number(3.21449), number(12345), number(5e-05), number("soft")
      ('3.214', '12 345', '5e-05', 'soft')
    """
    if isinstance(value, float) and 9999.5 <= abs(value) < 1e15:
        value = round(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}".replace(",", " ")
    return str(value)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    Example:
      >>> duration(41.2), duration(90000)
      ('0:00:41', '25:00:00')
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def measured_fields(fields: dict[str, object]) -> list[str]:
    """Names with their values; a name `x_per_s` becomes the unit x/s.

    Example:
      >>> measured_fields({"loss": 3.21449, "tokens_per_s": 12345.1})
      ['loss 3.214', '12 345 tokens/s']
    """
    return [
        f"{number(value)} {name.removesuffix('_per_s')}/s"
        if name.endswith("_per_s")
        else f"{name} {number(value)}"
        for name, value in fields.items()
    ]


class _Bars(rich.progress.Progress):
    """One line per job: what, bar, how far, time left; below it the measured fields.

    The fields have lines of their own because eight of them are wider than a terminal
    of 80 columns, and what does not fit on a line of the bar is cut off. Without a
    terminal nothing is shown, and only the time left is reckoned.
    """

    def __init__(self) -> None:
        super().__init__(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.fields[text]}", markup=False),
            console=CONSOLE,
            disable=not on_terminal(),
            # Of up to 1000 updates. The first one only starts the clock, since it
            # contains the compilation.
            speed_estimate_period=24 * 3600,
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            yield self.make_tasks_table([task])
            if task.fields["measured"]:
                yield Columns(map(Text, task.fields["measured"]), padding=(0, 2))


@dataclass
class Progress:
    """Shows how far a long job is: a bar on a terminal, a line now and then elsewhere.

        with Progress(100, "train") as progress:
            progress.update(step, loss=3.2, nll_0=2.98, tokens_per_s=12345.0)

    `train.log` gets the lines in both cases. A job that ends early, by an exception
    too, still shows its last update. A job inside another one shows its bar below the
    other's for as long as it lasts.

    Args:
      total: steps of the whole job.
      description: what is being done, one or two words.
      start: steps done before this session, of a resumed job.
      every: updates per line.
      unit: what is counted.
    """

    total: int
    description: str = ""
    _: KW_ONLY
    start: int = 0
    every: int = 10
    unit: str = "step"

    _open: ClassVar[list[_Bars]] = []  # a terminal has room for one live display
    _line = ""
    _unwritten = 0

    def __enter__(self) -> "Progress":
        self._outermost = not Progress._open
        if self._outermost:
            Progress._open.append(_Bars())
            Progress._open[0].start()
        self._bars = Progress._open[0]
        self._bars.add_task(
            self.description,
            total=self.total,
            completed=self.start,
            text=f"{self.start}/{self.total}",
            measured=[],
        )
        self._task = self._bars.tasks[-1]
        return self

    def update(self, step: int, **fields: object) -> None:
        """Says that `step` steps are done, and what the last one measured."""
        measured = measured_fields(fields)
        self._bars.update(self._task.id, completed=step, measured=measured)
        count, left = f"{step}/{self.total}", self._task.time_remaining
        tail = [f"{duration(left)} left"] if left else []
        self._bars.update(self._task.id, text="  ".join([count, *tail]))
        head = [self.description] if self.description else []
        self._line = "  ".join([*head, f"{self.unit} {count}", *measured, *tail])
        self._unwritten += 1
        if self._unwritten >= self.every or step >= self.total:
            self._write()

    def __exit__(self, *exception: object) -> None:
        if self._unwritten:
            self._write()
        # A job that ends early has no time left.
        done = f"{self._task.completed:.0f}/{self.total}"
        self._bars.update(self._task.id, text=done)
        if self._outermost:
            Progress._open.pop().stop()
        else:
            self._bars.remove_task(self._task.id)

    def _write(self) -> None:
        extra = None if self._bars.disable else _FILE_ONLY
        LOGGER.info("%s", self._line, extra=extra)
        self._unwritten = 0


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Prints a table, writes it to `train.log`, and returns it as plain text.

    Columns that hold only numbers are aligned to the right.

    Raises:
      ValueError: if a row has not one value per column.
    """
    rows = [list(row) for row in rows]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"a row of table {title!r} must have {len(columns)} values, got {row}"
            )
    by_column = zip(columns, *rows, strict=True)
    right = [
        all(isinstance(x, (int, float)) for x in column) for _, *column in by_column
    ]
    cells = [[number(value) for value in row] for row in rows]
    plain = _plain_table(title, [list(columns), *cells], right)
    if on_terminal():
        CONSOLE.print(Text(title), soft_wrap=True)  # rich's own is as wide as the table
        pretty = rich.table.Table()
        for column, is_number in zip(columns, right, strict=True):
            pretty.add_column(Text(column), justify="right" if is_number else "left")
        for row_cells in cells:
            pretty.add_row(*map(Text, row_cells))
        CONSOLE.print(pretty)
    else:
        say(plain)
    LOGGER.info("%s", plain, extra=_FILE_ONLY)
    return plain


def _plain_table(title: str, lines: list[list[str]], right: list[bool]) -> str:
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    text = [title]
    for line in lines:
        padded = [
            cell.rjust(width) if to_right else set_cell_size(cell, width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        text.append("  ".join(padded).rstrip())
    return "\n".join(text)
