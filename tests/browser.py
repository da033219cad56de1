"""A page in a headless Chromium: what it becomes, what it says, how it looks."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
HEIGHT = 900
SECONDS = 120
# What a page's own scripts log, or have gone wrong with; not the browser's own woes.
CONSOLE = re.compile(r":INFO:CONSOLE[^\"]*(\".*)")


@dataclass(frozen=True)
class Opened:
    """A page as a browser has it.

    Attributes:
      dom: after its scripts have run.
      console: lines that they wrote, errors among them.
      screenshot: PNG file.
    """

    dom: str
    console: list[str]
    screenshot: Path


def find() -> str:
    """The program; the test is skipped where there is none."""
    named = os.environ.get("WMTP_BROWSER", "")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} (or WMTP_BROWSER)")
    return found


def open_page(
    path: Path, width: int, dark: bool, folder: Path, *, at: str = ""
) -> Opened:
    """Opens a file, once.

    Args:
      width: of the window, pixels.
      dark: whether the reader prefers a dark page.
      folder: for the screenshot and the browser's own files.
      at: what stands behind `#` of the address.
    """
    picture = folder / f"{path.stem}-{width}-{'dark' if dark else 'light'}.png"
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--no-first-run", "--disable-background-networking", "--disable-extensions",
        f"--user-data-dir={folder / 'browser'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={width},{HEIGHT}", "--virtual-time-budget=2000",
        "--enable-logging=stderr", f"--screenshot={picture}", "--dump-dom",
    ]  # fmt: skip
    address = path.resolve().as_uri() + (f"#{at}" if at else "")
    done = subprocess.run(
        [find(), *options, address],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Opened(done.stdout, CONSOLE.findall(done.stderr), picture)


def with_script(path: Path, script: str, to: Path) -> Path:
    """A copy of a page with one script more at its end, which plays its reader."""
    text = path.read_text("utf-8")
    to.write_text(text.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
    return to
