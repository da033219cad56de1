"""JSON that somebody else wrote: read strictly, and never deeper than we can walk."""

import json
from pathlib import Path
from typing import Any

from shared.files import refuse_pointer
from shared.messages import first_line

# What we write has fewer than ten levels. Python reads nearly a thousand, and then has
# no room left to print or to hash what it has read.
MAX_DEPTH = 100


def parse(text: str | bytes, **settings: Any) -> Any:
    """What a JSON text says; `settings` are of `json.loads`.

    Raises:
      ValueError: if it is no JSON, names a key of an object twice, or has more than
        `MAX_DEPTH` levels.

    Example:
      >>> parse('{"a": [1, null]}')
      {'a': [1, None]}
    """
    try:
        found = json.loads(text, **{"object_pairs_hook": unique} | settings)
    except UnicodeDecodeError as error:
        raise ValueError(f"bytes that are not UTF-8 ({error.reason})") from None
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels") from None
    level = [found]
    for _ in range(MAX_DEPTH):
        level = [x for of in level for x in _within(of)]
        if not level:
            return found
    raise ValueError(f"more than {MAX_DEPTH} levels")


def _within(value: Any) -> list[Any]:
    """The lists and objects that stand in a value."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return []
    return [x for x in value if isinstance(x, list | dict)]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of its keys and values, for `json.loads`.

    Raises:
      ValueError: naming a key that is there twice; Python would take the last.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:100]!r} twice")
    return found


def read_object(path: Path, **settings: Any) -> dict[str, Any]:
    """The object that a JSON file holds; `settings` are of `json.loads`.

    Raises:
      ValueError: if the file cannot be read, or holds something else.
    """
    refuse_pointer(path)
    try:
        found = parse(path.read_bytes(), **settings)
    except OSError as error:
        raise ValueError(f"{path} must be readable, got {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} must be JSON, got {first_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(found).__name__}")
    return found
