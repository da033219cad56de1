"""A page of tokens and their weights: one HTML file, without any network.

Its parts lie in `template/`; text gets into it as JSON alone, which its script puts
into text nodes.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from shared.inspection.levels import BOUNDS, DROPPED, INK, LEVELS, NO_TARGET
from shared.inspection.rows import LABELS, Shown, told_of_example

SCRIPTS = ("known.js", "tokens.js", "numbers.js", "controls.js")


def page(
    title: str,
    lead: str,
    runs: Sequence[Mapping[str, Any]],
    examples: Sequence[Shown],
    frames: Sequence[str],
) -> str:
    """The whole page as text.

    Args:
      title, lead: what it is, in words.
      runs: of `rows.told_of_run`, in the order that the numbers of a frame have.
      frames: lines of `rows.frame`, in the order of their steps; one at least.
    """
    told = {
        "bounds": BOUNDS,
        "levels": [{"name": level.name} for level in LEVELS],
        "labels": LABELS,
        "runs": list(runs),
        "examples": [told_of_example(shown) for shown in examples],
    }
    # The lines are JSON already, and many: they are not read again.
    data = f'{json.dumps(told)[:-1]},"frames":[{",".join(frames)}]}}'
    return Template(_part("page.html")).substitute(
        title=escape(title),
        lead=escape(lead),
        colours=_colours(),
        style=_part("page.css"),
        script="\n".join(map(_part, SCRIPTS)),
        data=data.replace("<", "\\u003c"),  # `</script>` and `<!--` end no script
    )


def _part(name: str) -> str:
    return files("shared.inspection").joinpath("template", name).read_text("utf-8")


def _colours() -> str:
    """Each level's background and the ink on it, for a light and a dark screen."""
    named = {str(n): level for n, level in enumerate(LEVELS)}
    named |= {"dropped": DROPPED, "none": NO_TARGET}
    light, dark = (
        f"--ink: {INK[screen]}; "
        + "; ".join(f"--c-{n}: {getattr(x, screen)}" for n, x in named.items())
        for screen in ("light", "dark")
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) " + (
        f"{{ :root {{ {dark} }} }}"
    )
