"""Plain data as JSON, written in the child without a look at what a program overrides.

Numbers, texts and null are as in JSON; other values are arrays that begin with their
kind. A subclass of a built-in type is its built-in value, as in `==` of the built-ins.
"""

from _json import (
    encode_basestring_ascii as spell_text,  # json itself costs a start more
)

DEEPEST = 150  # arrays in arrays; the reader refuses more
BIG = 1 << 60  # integers from here on are written in hexadecimal: no limit of digits
VIEWS: tuple[type, ...] = (type({}.keys()), type({}.items()))


class Odd(Exception):
    """A value that is not plain data."""


def spell(value, depth: int = DEEPEST) -> str:
    """A value's JSON.

    Raises:
      Odd: if it, or a value in it, is not plain data, or it is too deep.
    """
    kind = type(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is not str and depth <= 0:
        raise Odd
    for base, spelled in SPELLED:
        if base in kind.__mro__:
            return spelled(value, depth - 1)
    if kind in VIEWS:
        return members("set", value, depth - 1)
    return spell_number(value, kind)


def spell_int(value, depth: int) -> str:
    exact = int.__pos__(value)
    return str(exact) if -BIG < exact < BIG else array("int", [f'"{exact:x}"'])


def spell_float(value, depth: int) -> str:
    text = float.__repr__(value)
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)


def spell_complex(value, depth: int) -> str:
    exact = complex.__pos__(value)
    return array("complex", (spell_float(x, depth) for x in (exact.real, exact.imag)))


def spell_dict(value, depth: int) -> str:
    rows = (f"[{spell(k, depth)},{spell(v, depth)}]" for k, v in dict.items(value))
    return array("dict", rows)


def members(kind: str, values, depth: int) -> str:
    return array(kind, (spell(x, depth) for x in values))


def array(kind: str, spelled) -> str:
    return "[" + ",".join([f'"{kind}"', *spelled]) + "]"


def spell_number(value, kind: type) -> str:
    """Numbers of the library that may equal a built-in one."""
    if (kind.__module__, kind.__name__) == ("decimal", "Decimal"):
        return array("Decimal", [spell_text(str(value))])
    if (kind.__module__, kind.__name__) == ("fractions", "Fraction"):
        return array("Fraction", [spell_text(str(value))])
    if kind.__module__ == "numpy" and "generic" in [x.__name__ for x in kind.__mro__]:
        return spell(value.item(), 1)  # a number or a text
    raise Odd


SPELLED = (
    (str, lambda value, depth: spell_text(str.__str__(value))),
    (int, spell_int),
    (float, spell_float),
    (list, lambda value, depth: members("list", list.__iter__(value), depth)),
    (tuple, lambda value, depth: members("tuple", tuple.__iter__(value), depth)),
    (dict, spell_dict),
    (set, lambda value, depth: members("set", set.__iter__(value), depth)),
    (
        frozenset,
        lambda value, depth: members("frozenset", frozenset.__iter__(value), depth),
    ),
    (bytes, lambda value, depth: array("bytes", [f'"{bytes.hex(value)}"'])),
    (bytearray, lambda value, depth: array("bytes", [f'"{bytearray.hex(value)}"'])),
    (complex, spell_complex),
)
