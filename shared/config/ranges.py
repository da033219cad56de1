"""Ranges of the numbers in a config, written as annotations of its fields.

`lr: Annotated[float, "> 0"]` in a group that derives from `Checked` is all it takes;
a number that is not finite is in no range, nor is a whole one beyond `MOST_WHOLE`.
"""

import math
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, get_type_hints

RANGES: dict[str, Callable[[float], bool]] = {
    "> 0": lambda x: x > 0,
    ">= 0": lambda x: x >= 0,
    "in [1, 10000]": lambda x: 1 <= x <= 10_000,
    "in [1, 1000000]": lambda x: 1 <= x <= 1_000_000,
    ">= 1": lambda x: x >= 1,
    ">= 2": lambda x: x >= 2,
    "in [0, 1]": lambda x: 0 <= x <= 1,
    "in [0, 1)": lambda x: 0 <= x < 1,
    "in (0, 1]": lambda x: 0 < x <= 1,
}
# What floats tell from its neighbours, and arrays and random keys take.
MOST_WHOLE = 2**53


@cache
def field_types(group: Any) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """The type and the annotations of each field: `float, ("> 0",)` for `lr`."""
    plain, full = get_type_hints(group), get_type_hints(group, include_extras=True)
    notes = {name: getattr(hint, "__metadata__", ()) for name, hint in full.items()}
    return {name: (plain[name], notes[name]) for name in plain}


class Checked:
    """A group of fields; `ModelConfig` is the group `model`, `Config` is all."""

    def __post_init__(self) -> None:
        group: Any = type(self)
        for name, (_, notes) in field_types(group).items():
            value = getattr(self, name)
            if isinstance(value, float):
                self.require(name, math.isfinite(value), "finite")
            elif isinstance(value, int):
                whole = f"from -{MOST_WHOLE} to {MOST_WHOLE}"
                self.require(name, abs(value) <= MOST_WHOLE, whole)
            for required in (note for note in notes if isinstance(note, str)):
                self.require(name, RANGES[required](value), required)

    def require(self, name: str, holds: bool, required: str) -> None:
        """Raises `group.name must be REQUIRED, got VALUE` where it does not hold."""
        if not holds:
            group = type(self).__name__.removesuffix("Config").lower()
            where, got = f"{group}.{name}".lstrip("."), attrgetter(name)(self)
            raise ValueError(f"{where} must be {required}, got {got!r}")
