"""The report of a comparison as files: HTML, Markdown, JSON lines and plots."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shared.comparison.differences import Comparison, comparisons_of
from shared.comparison.grid.found import Found
from shared.comparison.report.page import Page, page_of
from shared.comparison.report.records import as_lines, records_of
from shared.files import write_text, write_whole

if TYPE_CHECKING:
    from jinja2 import Environment

PLOTS = "plots"
# What Markdown or the HTML in it would read as more than text.
MARKS = re.compile(r'([\\`*_{}\[\]<>#|~&$"])')


def write_report(found: Found, comparisons: Sequence[Comparison] | None = None) -> None:
    """Writes `report.html`, `report.md`, `results.jsonl` and `plots/` into the folder.

    Each file is there whole or not at all; an older report is replaced.

    Args:
      comparisons: of `comparisons_of`, if they are at hand.
    """
    held = comparisons_of(found) if comparisons is None else comparisons
    records = records_of(found, held)
    page = page_of(found, held, records)
    folder = found.folder / PLOTS
    folder.mkdir(exist_ok=True)
    for plot in page.all_plots:
        write_whole(folder / f"{plot.name}.png", plot.png)
    for file in folder.glob("*.png"):
        if file.stem not in {plot.name for plot in page.all_plots}:
            file.unlink()  # of an older report
    write_text(found.folder / "results.jsonl", as_lines(records))
    write_text(found.folder / "report.md", as_markdown(page))
    write_text(found.folder / "report.html", as_html(page))


def as_html(page: Page) -> str:
    """One page that needs no other file; every text is escaped."""
    return _environment().get_template("report.html.j2").render(page=page)


def as_markdown(page: Page) -> str:
    """The same as Markdown, with the plots beside it; every text is escaped."""
    from markupsafe import Markup

    def plain(value: object) -> object:
        """One line that shows its marks; what a macro has made is Markdown already."""
        if isinstance(value, Markup):
            return value
        return Markup(MARKS.sub(r"\\\1", " ".join(str(value).split())))

    made = _environment(plain)
    text = made.get_template("report.md.j2").render(page=page, plots=PLOTS)
    return re.sub(r"\n{3,}", "\n\n", text)


def _environment(finalize: Callable[[object], object] | None = None) -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("shared.comparison.report"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
