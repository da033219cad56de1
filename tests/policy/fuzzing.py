"""Values, texts and bytes of every kind, and a check that is made of many of them.

The same ones in every run: what is found once is found again, and by everybody.
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = 20.0  # that one example may take on a busy machine; all take milliseconds
# Half characters, bytes of nothing, what moves a cursor.
ODD = "\ud800\udfff\0\n\r\t\x1b\x85\u2028\u202e\ufdd0\ufeff\U0001f600²../\\~ {}[]'\"<&%"
ANY = st.characters(exclude_categories=[])
TEXTS = st.text(ODD, max_size=5) | st.text(ANY, max_size=9)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, 10**30, -(2**63) - 1, 10**400]),
    st.floats(),
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
    ),
    max_leaves=8,
)
# What a parser may stumble over.
PIECES = [b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"NaN", b"-Infinity", b"1e999"]
PIECES += [b"[" * 2000, b'{"a":' * 2000, b"9" * 5000, b"-0", b'"', b"\\", b"\n", b","]
PIECES += [b"&a", b"*a", b"!!python/name:os.system ", b"<<: ", b"? ", b"---\n", b": "]


def known(keys: list[str], values: st.SearchStrategy[Any] = VALUES) -> Any:
    """Objects of keys that mean something, of others, and of any values."""
    names = st.sampled_from(keys) | TEXTS
    return st.dictionaries(names, values, max_size=5)


def changed(right: dict[str, Any]) -> Any:
    """A right object with some of its values taken out or put in anew."""
    keys = st.sampled_from(list(right))
    lost, other = st.sets(keys, max_size=2), known(list(right))
    return st.builds(
        lambda without, more: (
            {k: x for k, x in right.items() if k not in without} | more
        ),
        lost,
        other,
    )


def harmed(content: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with some of them cut out, replaced, doubled or put in."""
    place = st.integers(0, max(0, len(content)))
    piece = st.sampled_from(PIECES) | st.binary(max_size=8)

    def harm(edits: list[tuple[int, int, bytes, bool]]) -> bytes:
        now = content
        for start, length, put, double in edits:
            part = now[start : start + length]
            now = now[:start] + put + part * 2 * double + now[start + length :]
        return now

    edits = st.tuples(place, st.integers(0, 9), piece | st.just(b""), st.booleans())
    return st.lists(edits, min_size=1, max_size=4).map(harm)


def as_json(value: Any) -> bytes:
    """JSON of any value, of numbers and texts that JSON lacks too."""
    return json.dumps(value).encode()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails where what is done does not end."""

    def late(*_: object) -> None:
        raise AssertionError(f"not done in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def only(
    kind: type[Exception],
    strategy: st.SearchStrategy[Any],
    call: Callable[[Any], object],
    examples: int,
) -> None:
    """Calls with many examples: each ends, well or with one line of that error."""

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def check(example: Any) -> None:
        with within(SECONDS):
            try:
                call(example)
            except kind as error:
                assert type(error) is kind, repr(error)
                assert "\n" not in str(error) and len(str(error)) < 5000

    check()


def often(few: int, many: int) -> Any:
    """`examples`: few in the normal run, many in the slow one."""
    slow = pytest.param(many, id="many", marks=pytest.mark.slow)
    return pytest.mark.parametrize("examples", [pytest.param(few, id="few"), slow])
