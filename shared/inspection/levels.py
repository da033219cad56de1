"""Weights -> levels, which every picture of weights is made of: colour, sign, words.

A level is told three times, so that none of them has to be seen: by a colour (blue
below 1, white at 1, orange above, which no common colour blindness mixes up), by the
height of a bar, and in words.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass

# Between two levels next to each other; a factor of about 1.5 each, and 1 in between.
BOUNDS = (0.25, 0.5, 0.8, 1.25, 1.6, 2.2)


@dataclass(frozen=True)
class Level:
    """How weights of about one size are shown.

    Attributes:
      name: in words.
      bar: its sign, a bar that grows with the weight.
      letter: its sign where there are no such bars.
      light, dark: background under dark letters, and under light ones.
    """

    name: str
    bar: str
    letter: str
    light: str
    dark: str


LEVELS = (
    Level("below 0.25", "▁", "_", "#6db1dc", "#1c679c"),
    Level("0.25 to 0.5", "▂", "-", "#a5d0eb", "#1c5078"),
    Level("0.5 to 0.8", "▃", "~", "#d5e9f5", "#1f3b52"),
    Level("about 1", "▄", "=", "#f7f6f3", "#26292f"),
    Level("1.25 to 1.6", "▅", "+", "#fde3c4", "#4d3723"),
    Level("1.6 to 2.2", "▆", "*", "#fcc182", "#744618"),
    Level("from 2.2", "▇", "#", "#f59a3c", "#9a5409"),
)
DROPPED = Level("dropped", "✕", "x", "#e3e3e3", "#3a3a3a")
NO_TARGET = Level("no target", " ", " ", "#ffffff", "#16181d")
INK = {"light": "#17191c", "dark": "#f3f3f0"}


def level_of(weight: float) -> Level:
    """The level of a weight; NaN is no target, 0 a target that counts for nothing.

    Example:
      >>> level_of(1.0).name, level_of(3.0).bar, level_of(0.0).name
      ('about 1', '▇', 'dropped')
    """
    if math.isnan(weight):
        return NO_TARGET
    return DROPPED if weight == 0 else LEVELS[bisect_right(BOUNDS, weight)]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours `#rrggbb` as WCAG 2 has it, 1 to 21.

    (lighter + 0.05) / (darker + 0.05), of relative luminances

    Example:
      >>> round(contrast("#000000", "#ffffff"))
      21
    """
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, in [0, 1]."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
