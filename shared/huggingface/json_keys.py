"""A JSON object that somebody else wrote, read key by key and never trusted."""

import json
from pathlib import Path
from typing import Any

REQUIRED = object()  # default of a key that must be there
# Larger counts come from damaged or hostile files.
MAX_COUNT = 1_000_000_000


def read_keys(path: Path) -> "Keys":
    """The object that a JSON file holds.

    Raises:
      ValueError: if the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} must be readable, got {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(f"{path} must be JSON, got {reason}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(found).__name__}")
    return Keys(path, found)


class Keys:
    """An object of a file: values by key, each checked against what it must be.

    Every method raises ValueError, naming key and file, where the value does not fit.
    """

    def __init__(self, path: Path, found: dict[str, Any], within: str = "") -> None:
        self.path, self.found, self.within = path, found, within

    def refuse(self, key: str, required: str) -> ValueError:
        got = repr(self.found[key]) if key in self.found else "none"
        got = got if len(got) <= 100 else got[:97] + "..."
        return ValueError(
            f"{self.within}{key} must be {required}, got {got} in {self.path}"
        )

    def _get(self, key: str, default: Any, required: str) -> Any:
        value = self.found.get(key, default)
        if value is REQUIRED:
            raise self.refuse(key, required)
        return value

    def count(self, key: str, default: Any, most: int = MAX_COUNT) -> int:
        required = f"a whole number from 1 to {most}"
        value = self._get(key, default, required)
        if type(value) is not int or not 1 <= value <= most:
            raise self.refuse(key, required)
        return value

    def count_or(self, key: str, default: Any, instead: int) -> int:
        """Where null (and, mostly, nothing) stands for what follows from other keys."""
        if self.found.get(key, default) is None:
            return instead
        return self.count(key, default)

    def number(self, key: str, default: Any) -> float:
        value = self._get(key, default, "a number > 0")
        if type(value) not in (int, float) or not 0 < value < 1e30:
            raise self.refuse(key, "a number > 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.found.get(key, default)
        if type(value) is not bool:
            raise self.refuse(key, "true or false")
        return value

    def choice(self, key: str, default: Any, choices: Any) -> str:
        required = f"one of {', '.join(choices)}"
        value = self._get(key, default, required)
        if not isinstance(value, str) or value not in choices:
            raise self.refuse(key, required)
        return value

    def object(self, key: str) -> "Keys | None":
        """The object under a key; None where there is nothing, null or `{}`."""
        value = self.found.get(key)
        if value is None or value == {}:
            return None
        if not isinstance(value, dict):
            raise self.refuse(key, "an object")
        return Keys(self.path, value, f"{self.within}{key}.")
