"""A JSON object that somebody else wrote, read key by key and never trusted."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.config.layers import printable
from shared.json_text import read_object

# Larger counts come from damaged or hostile files.
MAX_COUNT = 1_000_000_000


def read_keys(path: Path, **settings: Any) -> "Keys":
    """The object that a JSON file holds; `settings` are of `json.loads`.

    Raises:
      ValueError: if the file cannot be read, or holds something else.
    """
    return Keys(path, read_object(path, **settings))


@dataclass(frozen=True)
class Keys:
    """An object of a file: values by key, each checked against what it must be.

    Every method raises ValueError, naming key and file, where the value does not fit.
    """

    path: Path
    found: dict[str, Any]
    within: str = ""

    def refuse(self, key: str, required: str) -> ValueError:
        got = repr(self.found[key]) if key in self.found else "none"
        got = got if len(got) <= 100 else got[:97] + "..."
        name = f"{self.within}{printable(key)}"
        return ValueError(f"{name} must be {required}, got {got} in {self.path}")

    def take(self, key: str, required: str, holds: Callable[[Any], bool]) -> Any:
        """The value of a key that must be there, and of which `holds` must be true."""
        if key not in self.found or not holds(self.found[key]):
            raise self.refuse(key, required)
        return self.found[key]

    def count(self, key: str, most: int = MAX_COUNT) -> int:
        required = f"a whole number from 1 to {most}"
        return self.take(key, required, lambda x: type(x) is int and 1 <= x <= most)

    def number(self, key: str) -> float:
        is_number = lambda x: type(x) in (int, float) and 0 < x < 1e30  # noqa: E731
        return float(self.take(key, "a number > 0", is_number))

    def flag(self, key: str) -> bool:
        return self.take(key, "true or false", lambda x: type(x) is bool)

    def choice(self, key: str, choices: Collection[str]) -> str:
        required = f"one of {', '.join(choices)}"
        return self.take(key, required, lambda x: isinstance(x, str) and x in choices)

    def object(self, key: str) -> "Keys | None":
        """The object under a key; None where there is nothing, null or `{}`."""
        value = self.found.get(key)
        if value is None or value == {}:
            return None
        self.take(key, "an object", lambda x: isinstance(x, dict))
        return Keys(self.path, value, f"{self.within}{key}.")
