"""Values on their way through JSON and back, and what a program could send instead."""

import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.evaluation.walls.inside import worker
from shared.evaluation.walls.inside.plain_data import parse, read, source
from shared.evaluation.walls.inside.spelling import DEEPEST, Odd, spell

HASHABLE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=6,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=8,
)


def through(value):
    return read(parse(f'["is",{spell(value)}]')[1])


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_values_come_through(value):
    found = through(value)
    assert found == value


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_values_are_written_as_python(value):
    assert eval(source(value), {"__builtins__": {}}, worker.NAMES) == value


def test_what_equality_does_not_tell():
    assert math.isnan(through(math.nan)) and math.isnan(eval(source(math.nan), {}))
    assert through([True, 1, 1.0]) == [True, 1, 1.0]
    assert [type(x) for x in through([True, 1, 1.0])] == [bool, int, float]
    assert math.copysign(1, through(-0.0)) == -1
    assert through(10**5000) == 10**5000 and through("\ud800\n\0") == "\ud800\n\0"


def test_kinds_of_the_library_are_their_builtin_values():
    Point = namedtuple("Point", "x y")
    pairs = [(Counter("aab"), {"a": 2, "b": 1}), (OrderedDict(a=1), {"a": 1})]
    pairs += [(defaultdict(int, a=1), {"a": 1}), (Point(1, 2), (1, 2))]
    pairs += [({1: 2}.keys(), {1}), (bytearray(b"a"), b"a")]
    pairs += [(Decimal("0.5"), 0.5), (Fraction(1, 2), 0.5)]
    assert all(through(value) == plain for value, plain in pairs)


def test_what_is_not_plain():
    loop: list = []
    loop.append(loop)
    for value in (object(), len, range(3), [iter([])], loop, {1: {2: object}}):
        with pytest.raises(Odd):
            spell(value)


class Sly(int):
    """Equal to everything, by its own word."""

    def __eq__(self, other):
        return True

    def __index__(self):
        return 3

    __pos__ = __int__ = __index__
    __hash__ = int.__hash__

    def __repr__(self):
        return "3"


def test_what_a_class_says_of_itself_is_not_asked():
    assert through(Sly(0)) == 0 and through([Sly(0)]) != [3]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500_000,
        '["is",' + "[" * 90_000 + "]" * 90_000 + "]",
        "null",
        "{}",
        "[]",
        "",
        "NaN",
        "9" * 5000,
        '["is",',
        "\ud800",
    ],
)
def test_no_answer_is_told(text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    "spelled",
    [
        {},
        [],
        [1],
        [["list"]],
        ["object"],
        ["int", 3],
        ["int"],
        ["int", "0x"],
        ["bytes", "zz"],
        ["bytes", 3],
        ["complex", 1],
        ["complex", [], 1],
        ["set", ["list"]],
        ["dict", [1]],
        ["dict", [["list"], 1]],
        ["dict", 1],
        ["Fraction", "1e999999999"],
        ["Fraction", "1/0"],
        ["Decimal", "1" * 201],
        ["Decimal", "one"],
        ["list", {"a": 1}],
    ],
)
def test_forged_values_are_refused(spelled):
    with pytest.raises(ValueError):
        read(spelled)


def test_depth_and_equal_hashes_are_bounded():
    value: list = []
    for _ in range(DEEPEST + 2):
        value = [value]
    with pytest.raises(Odd):
        spell(value)
    spelled = ["list"]
    for _ in range(DEEPEST + 2):
        spelled = ["list", spelled]
    with pytest.raises(ValueError, match="not too deep"):
        read(spelled)
    keys = [(2**61 - 1) * number for number in range(1500)]
    with pytest.raises(ValueError, match="1499 values of an answer share their hash"):
        read(["set", *keys])
    with pytest.raises(ValueError, match="share their hash"):
        read(["dict", *([key, 0] for key in keys)])


def test_only_plain_data_goes_to_a_program():
    with pytest.raises(TypeError, match="a object of a test cannot go to the program"):
        source([object()])
