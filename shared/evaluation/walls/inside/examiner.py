"""Runs the tests whose checks are no literals: it holds them, and not the program.

A name that neither the test, its definitions nor Python know is the program's: a call
of it goes to the worker by way of the parent, with plain data by value, and what comes
back is plain data, too. What is not stays with the program, under a number; a test sees
it through calls, attributes and items, each of which the program answers.

Requests are a letter and a text: `x` defines, `p` is a test. While a test runs, frames
that begin with `e` or `k` are requests to the worker, answered by what it says; `d` and
the outcome ends it.
"""

import ast
import builtins
import json
import os
import sys
from importlib import import_module
from typing import Any

from shared.evaluation.walls.inside import frames, worker
from shared.evaluation.walls.inside.plain_data import PATH, parse, read, source

CHANGES = "__changes__"  # called where only what a call changes can matter
MODULES = sys.stdlib_module_names


class ProgramError(Exception):
    """What a program raised that is no exception of Python's own."""


class Remote:
    """Something of the program's, known by an expression."""

    def __init__(self, path: str) -> None:
        object.__setattr__(self, PATH, path)

    def __call__(self, *args: Any, **options: Any) -> Any:
        words = [source(x) for x in args]
        words += [f"{name}={source(x)}" for name, x in options.items()]
        return ask("k", f"{_path(self)}({', '.join(words)})")

    def __getattr__(self, name: str) -> Any:
        return found(ask("k", f"{_path(self)}.{name}"), f"{_path(self)}.{name}")

    def __setattr__(self, name: str, value: Any) -> None:
        ask("e", f"setattr({_path(self)}, {name!r}, {source(value)})")

    def __getitem__(self, key: Any) -> Any:
        return ask("k", f"{_path(self)}[{_key(key)}]")

    def __iter__(self) -> Any:
        return iter(ask("k", f"[*{_path(self)}]"))

    def __next__(self) -> Any:
        return ask("k", f"next({_path(self)})")

    def __len__(self) -> int:
        return ask("e", f"len({_path(self)})")

    def __bool__(self) -> bool:
        return ask("t", _path(self))

    def __eq__(self, other: Any) -> bool:
        """Of two of its own objects a program decides; none of them is plain data."""
        if isinstance(other, Remote):
            return ask("t", f"{_path(self)} == {_path(other)}")
        value = ask("k", _path(self))
        return not isinstance(value, Remote) and value == other

    __hash__ = None  # type: ignore[assignment]


def found(value: Any, path: str) -> Any:
    """A value, or what is at a path, where the program can be asked for it again."""
    return Remote(path) if isinstance(value, Remote) else value


def _path(thing: Any) -> str:
    return object.__getattribute__(thing, PATH)


def _key(key: Any) -> str:
    if isinstance(key, slice):
        parts = (key.start, key.stop, key.step)
        return ":".join("" if x is None else source(x) for x in parts)
    return source(key)


class Free(Remote):
    """A name that nothing has defined: the program's, or a module of the library's."""

    def __getattr__(self, name: str) -> Any:
        if _path(self) in MODULES:
            return getattr(import_module(_path(self)), name)
        return super().__getattr__(name)


class Names(dict):
    """Python's own names, and behind them the program's."""

    def __missing__(self, name: str) -> Any:
        if name.startswith("__"):
            raise KeyError(name)
        return Free(name)


def ask(letter: str, expression: str) -> Any:
    """The worker's answer to a request, by way of the parent.

    Raises:
      Exception: of the nearest type of Python's own to what the program raised.
    """
    frames.write(CHANNEL[1], letter + expression)
    said, *values = parse(frames.read(CHANNEL[0]))
    if said == "is":
        return read(values[0])
    if said == "odd":
        return Remote(f"{worker.KEPT}[{int(values[1])}]")
    for name in values[0]:
        kind = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            raise kind(str(values[1]))
    raise ProgramError(str(values[1]))


def changes(function: Any) -> Any:
    """A call that gives its arguments back as the program has left them.

    Only where the result is thrown away: elsewhere a program that empties its arguments
    would change what the test compares with.
    """
    if not isinstance(function, Remote):
        return function

    def call(*args: Any, **options: Any) -> None:
        words = [f"*(__args__ := ({''.join(source(x) + ', ' for x in args)}))"]
        words += [f"{name}={source(x)}" for name, x in options.items()]
        call = f"{_path(function)}({', '.join(words)})"
        left = ask("k", f"({call}, __args__)[1]")
        if not isinstance(left, tuple) or len(left) != len(args):
            return  # an object of the program's among them
        for before, after in zip(args, left, strict=True):
            if type(before) is type(after) and isinstance(before, list):
                before[:] = after
            elif type(before) is type(after) and isinstance(before, dict | set):
                before.clear()
                before.update(after)

    return call


class Marks(ast.NodeTransformer):
    """Marks the calls whose results are thrown away."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name):
            name = ast.Name(CHANGES, ast.Load())
            node.value.func = ast.Call(name, [node.value.func], [])
        return ast.fix_missing_locations(node)


def outcome_of(test: str, names: dict[str, Any]) -> tuple[str, str]:
    """Runs one test: its outcome, and the type of an error."""
    try:
        exec(compile(Marks().visit(ast.parse(test)), "<test>", "exec"), names)
    except AssertionError:
        return "wrong", ""
    except MemoryError as error:
        return "out of memory", type(error).__name__
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}"[: worker.MESSAGE]
    return "passed", ""


CHANNEL = [0, 1]


def serve() -> None:
    """Answers requests until there are no more."""
    CHANNEL[:] = os.dup(0), os.dup(1)
    worker.silence()
    own = Names(vars(builtins))
    own[CHANGES] = changes
    names: dict[str, Any] = {"__name__": "tests", "__builtins__": own}
    while True:
        try:
            request = frames.read(CHANNEL[0])
            outcome = outcome_of(request[1:], names)
            frames.write(CHANNEL[1], "d" + json.dumps(outcome))
        except EOFError:
            os._exit(0)
