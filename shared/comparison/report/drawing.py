"""A figure of a page and of a folder: SVG in the page's own colours, and PNG.

Drawn once, with matplotlib's objects and no state of pyplot. What is drawn in `INK` and
`FAINT` takes the colours of the page, light or dark; text is the page's own font.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from shared.comparison.report.colours import FAINT, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 430  # of a figure, in pixels: it can be read on a telephone
TEXT = 12


@dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
      name: of its file, without an ending.
      title: above it.
      alt: what it shows, for those who do not see it.
      svg: an element of a page.
      png: on white.
    """

    name: str
    title: str
    alt: str
    svg: str
    png: bytes


def draw(
    name: str, title: str, alt: str, height: float, paint: "Callable[[Axes], None]"
) -> Plot:
    """Has `paint` fill a figure with one pair of axes.

    Args:
      name: also what the ids in the SVG begin with, so that a page can hold several.
      height: in pixels.
      paint: is given the axes: no box, ticks without lines, text of `TEXT` pixels.
    """
    with _looks():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        axes = figure.add_subplot()
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(FAINT)
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
        paint(axes)
        svg = _svg(figure, name, alt)
        figure.set_layout_engine("none")  # it is laid out, which takes the most time
        return Plot(name, title, alt, svg, _png(figure))


@contextmanager
def _looks() -> Iterator[None]:
    import matplotlib

    looks: Any = {
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": "wmtp",  # the same figure is the same file
        "font.size": TEXT,
        "text.parse_math": False,  # names are text, whatever is in them
        "axes.formatter.useoffset": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": FAINT,
        "savefig.facecolor": "none",
        "axes.facecolor": "none",
    }
    with matplotlib.rc_context(looks), warnings.catch_warnings():
        # A name may be of letters that its font lacks; the page's own may have them.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


def _png(figure: "Figure") -> bytes:
    held = io.BytesIO()
    nobody = {"Software": None}
    figure.savefig(held, format="png", dpi=144, facecolor="white", metadata=nobody)
    return held.getvalue()


def _svg(figure: "Figure", name: str, alt: str) -> str:
    held = io.StringIO()
    figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    text = held.getvalue()
    text = text[text.index("<svg") :]
    # The style would be that of the whole page.
    text = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
    text = re.sub(r"font-family: '[^;\"]*;\s*", "", text)
    height = figure.get_figheight() * 72
    opening = (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {height:g}" '
        f'style="max-width: {WIDTH}px" stroke-linejoin="round" '
        f'xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return opening + text[text.index(">") + 1 :]
