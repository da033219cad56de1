"""One report with all that may go wrong in it, and how to read its tables."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from shared.comparison.grid.found import read_found
from shared.comparison.report import write_report
from tests.comparison.made import make
from tests.trained import made_once, shared_folder

HOSTILE = "<script>alert('x')</script> | `a` *b* [c](d) & \"e\" $f$"


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A failed and a missing run, hostile texts, and the report of all that."""
    place = shared_folder(tmp_path_factory) / "compared" / "made"
    return read_found(made_once(place, write) / "grid")


def write(folder: Path) -> None:
    """Makes what the fixture `written` gives."""
    found = make(
        folder / "grid",
        controls=("shuffle",),
        files=[f"other={folder / 'other'}"],
        tasks=("mbpp",),
        failed={"critic-2": f"out of memory {HOSTILE}"},
        missing=["rho1-weighted-shuffle-1"],
    )
    plan = json.loads((found.folder / "plan.json").read_text())
    plan |= {"model": HOSTILE, "data": HOSTILE, "options": [HOSTILE]}
    plan["machine"][HOSTILE] = HOSTILE
    for arm in plan["arms"]:
        arm["name"] = HOSTILE if arm["name"] == "other" else arm["name"]
    for member in plan["members"]:
        member["arm"] = HOSTILE if member["arm"] == "other" else member["arm"]
        member["command"] = [*member["command"], HOSTILE] if member["command"] else []
    (found.folder / "plan.json").write_text(json.dumps(plan))
    plots = found.folder / "plots"
    plots.mkdir()
    (plots / "of-an-older-report.png").write_bytes(b"")
    write_report(read_found(found.folder))


def texts(found):
    names = ("report.html", "report.md")
    return [(found.folder / name).read_text("utf-8") for name in names]


class Tables(HTMLParser):
    """Rows of cells of every table of a page, by its id."""

    def __init__(self, page):
        super().__init__()
        self.found, self._cell = {}, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self._rows = self.found.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell.strip())
            self._cell = None


def plain(cell):
    """A cell of Markdown without its escapes."""
    return re.sub(r"\\(.)", r"\1", cell).strip()


def markdown_tables(text):
    """Rows of cells of every table, in their order."""
    tables, before = [], ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                tables.append([])
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables[-1].append([plain(cell) for cell in cells])
        before = line
    return [[rows[0], *rows[2:]] for rows in tables]
