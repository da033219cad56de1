"""What the keys of a row must hold, and one clear line where they do not."""

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

Row = dict[str, Any]
Kind = tuple[str, Callable[[Any], bool]]  # in words, and whether a value is one


_short = reprlib.Repr()
_short.maxlist, _short.maxstring = 40, 60


def keys_of(row: Row) -> str:
    """The keys that a row has, for a message; cut where there are many, or long ones.

    Example:
      >>> keys_of({"prompt": "a", "x" * 99: 1})
      "['prompt', 'xxxxxxxxxxxxxxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxxxxxxxxxxxxxx']"
    """
    return _short.repr(list(row))


def check_row(row: Row, keys: Mapping[str, Kind], name: str, where: str) -> None:
    """Checks that a row has some keys, and that each holds what it must.

    Args:
      keys: that must be there; others may be.
      name: what needs them, for the message: `format mbpp`.
      where: the row stands, for the message.

    Raises:
      ValueError: if a key is missing or holds something else.
    """
    if missing := [key for key in keys if key not in row]:
        raise ValueError(
            f"{where}: {name} must have the keys {', '.join(keys)}, got {keys_of(row)} "
            f"without {', '.join(missing)}"
        )
    for key, (kind, holds) in keys.items():
        if not holds(row[key]):
            got = repr(row[key])
            got = got if len(got) <= 60 else f"{got[:57]}..."
            raise ValueError(f"{where}: {key!r} must be {kind}, got {got}")


def _is_list(x: Any, of: type, least: int = 1) -> bool:
    """Whether it is a list of so many values of that type."""
    return isinstance(x, list) and len(x) >= least and all(isinstance(y, of) for y in x)


def _are_lists(x: Any, least: int, **types: type) -> bool:
    """Whether it is a dict with lists under these keys, each as long as the others."""
    if not isinstance(x, dict):
        return False
    fit = all(_is_list(x.get(key), of, least) for key, of in types.items())
    return fit and len({len(x[key]) for key in types}) == 1


def _is_message(x: Any) -> bool:
    """Whether it is {role, content}; in tables there are more keys, which hold null."""
    filled = {key: value for key, value in x.items() if value is not None}
    texts = all(isinstance(value, str) for value in filled.values())
    return texts and {*filled} == {"role", "content"} and filled["role"].isidentifier()


ID: Kind = (
    "a string or an integer",
    lambda x: isinstance(x, (str, int)) and not isinstance(x, bool),
)
TEXT: Kind = ("a string", lambda x: isinstance(x, str))
TEXTS: Kind = ("a list of at least one string", lambda x: _is_list(x, str))
TESTS: Kind = (
    "{input, output}, two equally long lists of strings",
    lambda x: _are_lists(x, 1, input=str, output=str),
)
SOLUTIONS: Kind = (
    "{language, solution}, equally long lists of integers and strings",
    lambda x: _are_lists(x, 0, language=int, solution=str),
)
MESSAGES: Kind = (
    "a list of {role, content}, a word and a string, and nothing else",
    lambda x: _is_list(x, dict) and all(map(_is_message, x)),
)
