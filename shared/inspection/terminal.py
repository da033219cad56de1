"""Tokens and their weights on a terminal: colours, and under each letter a sign.

Where there is no terminal (a pipe, a file) the signs are all there is, and no control
character is written.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from shared.inspection.levels import DROPPED, INK, LEVELS, NO_TARGET, Level, level_of
from shared.inspection.rows import Shown
from shared.inspection.tokens import Weighed
from shared.tracking import console

WIDTH = 88  # of lines where no terminal has one
END, TAB = "↵", "⇥"


@dataclass(frozen=True)
class Letter:
    """One letter of a token and the level that it is shown in."""

    text: str
    level: Level
    ends_line: bool = False


def show(name: str, shown: Shown, weighed: Weighed, heads: Sequence[int]) -> None:
    """Prints one run's weights of an example, head by head."""
    plain = not _can_write("".join(level.bar for level in LEVELS) + END + TAB)
    for k in heads:
        console.say(f"\n{name}: {shown.name}, head {k}")
        weights = weighed.weight_TK[:, k].tolist()
        for line in lines_of(shown.texts, weights, _width(), plain=plain):
            _say_line(line, plain=plain)


def lines_of(
    texts: Sequence[str], weights: Sequence[float], width: int, *, plain: bool = False
) -> Iterator[list[Letter]]:
    """Letters cut into lines at the text's own ends, and where a line is full.

    Args:
      plain: whether only ASCII can be written for what is no text of a token.
    """
    line: list[Letter] = []
    used = 0
    for text, weight in zip(texts, weights, strict=True):
        for letter in text:
            size = cell_len(_seen(letter, plain))
            if line and used + size > width:
                yield line
                line, used = [], 0
            ends = letter == "\n"
            line.append(Letter(_seen(letter, plain), level_of(weight), ends))
            used += size
            if ends:
                yield line
                line, used = [], 0
    if line:
        yield line


def signs_of(line: Sequence[Letter], *, plain: bool = False) -> str:
    """A sign for each cell of a line's letters."""
    signs = (x.level.letter if plain else x.level.bar for x in line)
    sized = zip(signs, line, strict=True)
    return "".join(sign * cell_len(x.text) for sign, x in sized).rstrip()


def legend(plain: bool | None = None) -> str:
    """What the signs stand for, in one line."""
    if plain is None:
        plain = not _can_write("".join(level.bar for level in LEVELS))
    told = [(x.letter if plain else x.bar, x.name) for x in (*LEVELS, DROPPED)]
    return "weights: " + "   ".join(f"{sign} {name}" for sign, name in told)


def summary(named: Sequence[tuple[str, Weighed]]) -> None:
    """A table of all heads of all runs: how the weights are spread."""
    rows = [
        [name, k, *_of_head(weighed, k)]
        for name, weighed in named
        for k in range(weighed.weight_TK.shape[1])
    ]
    columns = ["run", "head", "targets", "mean", "min", "max", "dropped"]
    columns += ["at floor", "at ceiling", "nll"]
    console.table("weights", columns, rows)


def _of_head(weighed: Weighed, k: int) -> list[object]:
    weight_T, nll_T = weighed.weight_TK[:, k], weighed.nll_TK[:, k]
    own_N = weight_T[[not math.isnan(x) for x in weight_T]]
    if not len(own_N):
        return [0, "-", "-", "-", 0, 0, 0, "-"]
    clipped_T = weighed.clipped_TK[:, k]
    spread = [float(x) for x in (own_N.mean(), own_N.min(), own_N.max())]
    counts = [int(x.sum()) for x in (own_N == 0, clipped_T < 0, clipped_T > 0)]
    nll_N = [x for x in nll_T.tolist() if not math.isnan(x)]
    return [len(own_N), *spread, *counts, sum(nll_N) / len(nll_N)]


def _seen(letter: str, plain: bool) -> str:
    return {"\n": " " if plain else END, "\t": " " if plain else TAB}.get(
        letter, letter
    )


def _say_line(line: list[Letter], *, plain: bool) -> None:
    signs = signs_of(line, plain=plain)
    if not console.on_terminal():
        console.say("".join(x.text for x in line).rstrip())
        console.say(signs)
        return
    text = Text()
    for x in line:
        ink = "dim" if x.level is NO_TARGET else f"{INK['light']} on {x.level.light}"
        text.append(x.text, style=ink)
    console.CONSOLE.print(text, soft_wrap=True)
    console.CONSOLE.print(Text(signs), soft_wrap=True)


def _width() -> int:
    return console.CONSOLE.width if console.on_terminal() else WIDTH


def _can_write(text: str) -> bool:
    """Whether stdout has an encoding with these letters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True
