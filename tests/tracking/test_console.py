"""Progress, tables and log lines, on a pipe and on a real pseudo-terminal."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared.tracking import console
from shared.tracking.console import (
    Progress,
    close_logging,
    number,
    setup_logging,
    table,
)

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys
from pathlib import Path
from shared.tracking.console import Progress, close_logging, setup_logging, table
log = setup_logging(Path(sys.argv[1]), verbose=False)
log.info("start [bold]x[/bold] %s", "y" * 100)
with Progress(25, "train", every=10) as progress:
    for step in range(1, 26):
        nll = {f"nll_{k}": 2.98 + k for k in range(4)}
        progress.update(step, loss=3.21449, **nll, tokens_per_s=12345.1)
        if step == 15:
            log.warning("in between")
            with Progress(2, "validation", unit="batch") as inner:
                inner.update(1)
                inner.update(2)
table("Result", ["algo", "nll"], [["critic [a]", 2.5], ["baseline", 10.25]])
close_logging()
"""


@pytest.fixture(autouse=True)
def logging_closed():
    yield
    close_logging()


def run_on_pty(folder: Path, columns: int) -> str:
    """What SCRIPT writes to a terminal of that width, raw."""
    pty, fcntl, termios, struct = map(
        pytest.importorskip, ["pty", "fcntl", "termios", "struct"]
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "TTY_COMPATIBLE"):
        env.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(folder)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env=env,
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        output += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0, output.decode()
    return output.decode()


def screen_lines(raw: str) -> list[str]:
    """The lines that stay on a terminal after `raw`; knows what rich uses."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[^\x1b]", raw):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token == "\x1b[1A":
            row -= 1
        elif token == "\x1b[2K":
            lines[row] = ""
        elif not token.startswith("\x1b"):
            line = lines[row].ljust(column)
            lines[row] = line[:column] + token + line[column + 1 :]
            column += 1
        else:
            assert token[-1] in "mhl", f"unknown control sequence {token!r}"
    return [line.rstrip() for line in lines]


def test_pipe_gets_plain_lines_and_no_control_characters(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "FORCE_COLOR": "1"},
        check=True,
    )
    assert done.stderr == ""
    assert not re.search(r"[^\x20-\x7e\n]", done.stdout)
    lines = done.stdout.splitlines()
    assert lines[0] == "start [bold]x[/bold] " + "y" * 100
    fields = "loss 3.214  nll_0 2.98  nll_1 3.98  nll_2 4.98  nll_3 5.98  12 345 tokens"
    assert lines[1].startswith(f"train  step 10/25  {fields}/s  0:00:0")
    assert lines[1].endswith(" left")
    assert lines[2:4] == ["warning: in between", "validation  batch 2/2"]
    assert lines[4].startswith("train  step 20/25  ")
    assert lines[5] == f"train  step 25/25  {fields}/s"
    assert lines[6:] == [
        "Result",
        "algo          nll",
        "----------  -----",
        "critic [a]    2.5",
        "baseline    10.25",
    ]


@pytest.mark.parametrize("columns", [80, 45])
def test_terminal_gets_a_bar_and_the_file_gets_lines(tmp_path, columns):
    raw = run_on_pty(tmp_path, columns)
    assert "\x1b[?25l" in raw and "\x1b[?25h" in raw  # cursor hidden and shown again
    lines = screen_lines(raw)
    text = "\n".join(lines)
    # One bar is left, at its end, with every field; the inner one is gone.
    assert len(re.findall(r"^train +\S+ 25/25$", text, re.M)) == 1
    for field in ("loss 3.214", "nll_0 2.98", "nll_3 5.98", "12 345 tokens/s"):
        assert text.count(field) == 1
    assert "validation" not in text and "step 10/25" not in text
    assert text.count("warning: in between") == 1
    assert text.index("warning: in between") < text.index("25/25")
    assert "start [bold]x[/bold] " + "y" * 100 in raw  # not broken into two
    assert "critic [a]" in text and "10.25" in text

    log = (tmp_path / "train.log").read_text()
    assert "\x1b" not in log
    for end in ("10/25", "20/25", "25/25"):
        assert log.count(f"INFO train  step {end}  loss 3.214") == 1
    assert log.count("WARNING in between") == 1
    assert "INFO Result\nalgo" in log


def test_log_file_is_appended_with_times(tmp_path, capsys):
    for text in ("first", "second"):
        setup_logging(tmp_path, verbose=False).info(text)
        close_logging()
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split(" INFO ")[1] for line in lines] == ["first", "second"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO", x) for x in lines)
    assert capsys.readouterr().out == "first\nsecond\n"


def test_verbose_shows_debug_lines(capsys):
    setup_logging(None, verbose=False).debug("hidden")
    setup_logging(None, verbose=True).debug("shown")
    assert capsys.readouterr().out == "shown\n"


def test_setup_twice_does_not_print_twice(tmp_path, capsys):
    setup_logging(tmp_path, verbose=False)
    setup_logging(tmp_path, verbose=False).info("once")
    assert capsys.readouterr().out == "once\n"
    assert (tmp_path / "train.log").read_text().count("once") == 1


def test_close_leaves_handlers_of_others(tmp_path):
    logger = logging.getLogger("wmtp")
    before = (list(logger.handlers), logger.level, logger.propagate)
    setup_logging(tmp_path, verbose=True)
    assert not logger.propagate
    close_logging()
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_closed_pipe_does_not_stop_the_run(tmp_path, monkeypatch):
    class ClosedPipe:
        def write(self, text):
            raise BrokenPipeError

        flush = write
        isatty = staticmethod(lambda: False)

    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    logger = setup_logging(tmp_path, verbose=False)
    logger.info("one")
    logger.info("two")
    assert "two" in (tmp_path / "train.log").read_text()


def test_last_update_is_shown_when_the_job_ends_early(capsys):
    setup_logging(None, verbose=False)
    with pytest.raises(KeyError), Progress(100, "train", every=10) as progress:
        for step in range(1, 14):
            progress.update(step)
        raise KeyError
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 10/100", "step 13/100"]


def test_time_left_leaves_out_the_compilation_and_the_steps_before(monkeypatch, capsys):
    now = 940.0  # 60 s of compilation go before the first update
    monkeypatch.setattr(console.CONSOLE, "get_time", lambda: now)
    setup_logging(None, verbose=False)
    with Progress(100, start=50, every=1) as progress:
        for step, now in ((51, 1000.0), (52, 1002.0), (53, 1004.0)):  # noqa: B007
            progress.update(step)
    assert capsys.readouterr().out.splitlines() == [
        "step 51/100",
        "step 52/100  0:01:36 left",
        "step 53/100  0:01:34 left",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9999.4, "9999"),
        (9999.6, "10 000"),
        (-1234567, "-1 234 567"),
        (1234567.0, "1 234 567"),
        (1e20, "1e+20"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (True, "True"),
        (None, "None"),
    ],
)
def test_number(value, text):
    assert number(value) == text


def test_table_refuses_a_ragged_row():
    with pytest.raises(ValueError, match=r"'Runs' must have 2 values, got \[1\]"):
        table("Runs", ["a", "b"], [[1]])


def test_empty_table_has_its_header(capsys):
    assert table("Runs", ["algo", "nll"], []) == "Runs\nalgo  nll\n----  ---"
    assert capsys.readouterr().out == "Runs\nalgo  nll\n----  ---\n"
