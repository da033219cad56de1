"""Free text in Markdown: names of the user's and of others, made harmless.

They stand in code spans, where Markdown has no meaning, and what could end one, or the
line, is taken out.
"""

import os
import re
from collections.abc import Iterable
from pathlib import PurePath

from shared.huggingface.hub import NAME

MOST = 200  # letters
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


def code(text: object) -> str:
    """A code span that shows the text, on one line.

    Example:
      >>> code("a`b"), code("x\\n# y"), code("`")
      ('``a`b``', '`x\ufffd# y`', '`` ` ``')
    """
    # A vertical bar would end the cell of a table, in code too.
    clean = "".join(x if x.isprintable() and x != "|" else UNKNOWN for x in str(text))
    clean = (clean[: MOST - 3] + "..." if len(clean) > MOST else clean).strip() or "-"
    longest = max(map(len, re.findall("`+", clean)), default=0)
    fence = "`" * (longest + 1)
    room = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{fence}{room}{clean}{room}{fence}"


def on_hub(name: str) -> bool:
    """Whether a model's name is one on the hub: no folder, and nothing like a path."""
    return not os.path.isdir(os.path.expanduser(name)) and bool(NAME.fullmatch(name))


def named(name: str, revision: str = "") -> str:
    """A model, file or folder; of a path only its last name, the rest is private."""
    if on_hub(name):
        return code(name) + (f", revision {code(revision)}" if revision else "")
    return code(PurePath(name).name)


def bullets(rows: Iterable[tuple[str, str]]) -> str:
    """`- what: value`, one line each; those without a value are left out."""
    return "\n".join(f"- {what}: {value}" for what, value in rows if value)


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table of Markdown."""
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *(list(map(str, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
