"""Reads answers, and writes plain data as Python: for the parent and the examiner.

A value is JSON as `spelling` writes it, read without `eval` or a syntax tree: what a
program answers may be anything. Size is bounded by the frame, depth here, and so are
the numbers of values that share a hash, which would make a dictionary slow to fill.
"""

import builtins
import json
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from shared.evaluation.walls.inside.spelling import DEEPEST

SAME_HASH = 1000  # values of one dictionary or set that may share theirs
LONGEST = 200  # characters of a decimal or a fraction


def parse(text: str) -> list[Any]:
    """The JSON of one answer, of which values are still to be read.

    Raises:
      ValueError: if it is no array of JSON.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("an answer must not be nested so deeply") from None
    if not isinstance(found, list) or not found:
        raise ValueError("an answer must be an array")
    return found


def read(spelled: Any, depth: int = DEEPEST) -> Any:
    """The value of parsed JSON.

    Raises:
      ValueError: if it is not one that `spelling` writes.

    Example:
      >>> read(["tuple", 1, ["set", "a"], ["list"]])
      (1, {'a'}, [])
    """
    if not isinstance(spelled, list):
        if isinstance(spelled, dict):
            raise ValueError("an answer must not hold an object of JSON")
        return spelled
    if depth < 0 or not spelled or not isinstance(spelled[0], str):
        raise ValueError("an answer must be plain data, not too deep")
    if spelled[0] not in READERS:
        raise ValueError(f"an answer of kind {spelled[0][:20]!a} is not known")
    try:
        return READERS[spelled[0]](spelled[1:], depth - 1)
    except (TypeError, ArithmeticError, IndexError) as error:
        raise ValueError(f"an answer must be plain data: {error}") from None


def items(values: Sequence[Any], depth: int) -> list[Any]:
    return [read(x, depth) for x in values]


def hashable(values: list[Any]) -> list[Any]:
    """The same values, if a table of them fills quickly."""
    excess = len(values) - len({hash(x) for x in values})
    if excess > SAME_HASH:
        raise ValueError(f"{excess} values of an answer share their hashes")
    return values


def read_dict(rows: Sequence[Any], depth: int) -> dict[Hashable, Any]:
    keys = hashable([read(key, depth) for key, _ in rows])
    return dict(zip(keys, [read(value, depth) for _, value in rows], strict=True))


def fraction(text: str) -> Fraction:
    """Two integers: of the exponents that a fraction may be written with, a small text
    could make a number that fills the memory."""
    numerator, _, denominator = short(text).partition("/")
    return Fraction(int(numerator), int(denominator or "1"))


def short(text: Any) -> str:
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ValueError(f"a number must have at most {LONGEST} characters")
    return text


READERS: dict[str, Callable[[Sequence[Any], int], Any]] = {
    "list": items,
    "tuple": lambda values, depth: tuple(items(values, depth)),
    "set": lambda values, depth: set(hashable(items(values, depth))),
    "frozenset": lambda values, depth: frozenset(hashable(items(values, depth))),
    "dict": read_dict,
    "int": lambda values, depth: int(values[0], 16),
    "bytes": lambda values, depth: bytes.fromhex(values[0]),
    "complex": lambda values, depth: complex(float(values[0]), float(values[1])),
    "Decimal": lambda values, depth: Decimal(short(values[0])),
    "Fraction": lambda values, depth: fraction(values[0]),
}


def source(value: Any) -> str:
    """A value as an expression of Python, with no name that a program could change.

    Raises:
      TypeError: if it is not plain data.

    Example:
      >>> source([float("inf"), {1}, set()])
      '[1e999, {0x1}, {*()}]'
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return hex(value) if value >= 0 else f"(-{hex(-value)})"
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        infinite = "(1e999-1e999)" if value != value else "1e999"
        return infinite if not value < 0 else "(-1e999)"
    if isinstance(value, complex):
        return f"__complex__({source(value.real)}, {source(value.imag)})"
    if value is None or isinstance(value, bool | float | str | bytes):
        return repr(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{source(k)}: {source(v)}' for k, v in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        inner = ", ".join(source(x) for x in value)
        if isinstance(value, list):
            return f"[{inner}]"
        if isinstance(value, tuple):
            return f"({inner},)" if value else "()"
        text = f"{{{inner}}}" if value else "{*()}"
        return text if isinstance(value, set) else f"__frozenset__({text})"
    if isinstance(value, type) and value in vars(builtins).values():
        return value.__name__
    if hasattr(value, PATH):  # stays with the program, which knows it by this
        return str(getattr(value, PATH))
    raise TypeError(f"a {type(value).__name__} of a test cannot go to the program")


PATH = "_path_in_program"
