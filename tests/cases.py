"""Cases of a test, of which the normal run has some and `make slow` the rest."""

from collections.abc import Container, Iterable
from typing import Any

import pytest


def shorter(values: Iterable[Any], normal: Container[Any]) -> list[Any]:
    """Each is a program of its own to compile: all but `normal` are slow."""
    return [
        x if x in normal else pytest.param(x, marks=pytest.mark.slow) for x in values
    ]


def shorter_rows(rows: Iterable[tuple[Any, ...]], normal: Container[Any]) -> list[Any]:
    """Likewise, where each has the values of several arguments."""
    return [
        x if x in normal else pytest.param(*x, marks=pytest.mark.slow) for x in rows
    ]
