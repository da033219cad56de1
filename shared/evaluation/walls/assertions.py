"""Tests as what is asked of the program, and what has to be true of its answer.

`assert f(2) == 3` asks the worker for `f(2)`; the 3 stays here. A test that cannot be
taken apart so, or whose question would tell what is expected (`abs(f(2) - 3) < 0.1`),
is the examiner's.
"""

import ast
import builtins
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

# Of one argument, and no expected value in it: they are the program's to work out.
WRAPPERS = {
    *("abs", "bool", "dict", "float", "frozenset", "int", "len", "list", "max", "min"),
    *("repr", "set", "sorted", "str", "sum", "tuple"),
}
BUILTINS = set(dir(builtins))
OPERATORS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, other: one in other,
    ast.NotIn: lambda one, other: one not in other,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
SINGLE = (ast.Is, ast.IsNot)


@dataclass(frozen=True)
class Check:
    """One question and what has to be true of its answer.

    Attributes:
      request: to the worker; empty where nothing has to be asked.
      holds: of the answer's value; may raise what Python raises for such a comparison.
    """

    request: str
    holds: Callable[[Any], bool]


class NotPlain(Exception):
    """A test that is the examiner's."""


def taken_apart(test: str, trusted: frozenset[str] = frozenset()) -> list[Check] | None:
    """The checks of a test, in their order; None if it is the examiner's.

    Args:
      test: statements of Python: asserts, or a function of asserts that takes the
        program's function, and its call (HumanEval's `check`).
      trusted: names that the test's own setting defines, and not the program.

    Example:
      >>> [check.request for check in taken_apart("assert f(2) == 3 and not g([])")]
      ['ef(2)', 'tg([])']
    """
    try:
        return list(_checks(ast.parse(test).body, trusted))
    except (NotPlain, SyntaxError, RecursionError, ValueError):
        return None


def _checks(body: list[ast.stmt], trusted: frozenset[str]) -> Iterator[Check]:
    functions = {x.name: x for x in body if isinstance(x, ast.FunctionDef)}
    trusted |= functions.keys()
    for statement in body:
        match statement:
            case ast.Assert(test=test):
                yield from _asserted(test, trusted)
            case ast.Expr(value=ast.Call(func=ast.Name(id=name)) as call) if (
                name in functions
            ):
                yield from _checks(_called(functions[name], call), trusted)
            case ast.FunctionDef() | ast.Pass() | ast.Expr(value=ast.Constant()):
                pass
            case ast.Expr(value=ast.Name(id=name)) if name in BUILTINS:
                pass
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                _literal(value)  # such as METADATA
                trusted |= {name}
            case _:
                raise NotPlain


def _called(function: ast.FunctionDef, call: ast.Call) -> list[ast.stmt]:
    """The body of `check(candidate)`, the program's name in its argument's place."""
    taken = function.args
    one = (
        [taken.args, call.args]
        if not (call.keywords or function.decorator_list)
        else []
    )
    match one:
        case [[ast.arg(arg=argument)], [ast.Name(id=name)]] if not taken.defaults:
            for node in ast.walk(function):
                if isinstance(node, ast.Name) and node.id == argument:
                    node.id = name
            return function.body
    raise NotPlain


def _asserted(test: ast.expr, trusted: frozenset[str]) -> Iterator[Check]:
    match test:
        case ast.Constant(value=value):
            yield Check("", lambda _: bool(value))
        case ast.BoolOp(op=ast.And(), values=values):
            for each in values:
                yield from _asserted(each, trusted)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield Check(_question("t", operand, trusted), operator.not_)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            yield _compared(left, op, right, trusted)
        case _:
            yield Check(_question("t", test, trusted), bool)


def _compared(
    left: ast.expr, op: ast.cmpop, right: ast.expr, trusted: frozenset[str]
) -> Check:
    compare = OPERATORS[type(op)]
    for asked, other, mirrored in ((left, right, False), (right, left, True)):
        try:
            expected = _literal(other)
        except NotPlain:
            continue
        if isinstance(op, SINGLE) and expected not in (None, True, False):
            raise NotPlain
        holds = partial(compare, expected)
        if not mirrored:
            holds = partial(_swapped, compare, expected)
        return Check(_question("e", asked, trusted), holds)
    raise NotPlain


def _swapped(compare: Callable[[Any, Any], bool], one: Any, other: Any) -> bool:
    return compare(other, one)


def _literal(node: ast.expr) -> Any:
    """A literal's value; sets without members and infinities are literals, too."""
    match node:
        case ast.Call(func=ast.Name(id="set"), args=[], keywords=[]):
            return set()
        case ast.Call(func=ast.Name(id="frozenset"), args=[given], keywords=[]):
            return frozenset(_literal(given))
        case ast.Call(
            func=ast.Name(id="float"), args=[ast.Constant(value=str(text))], keywords=[]
        ):
            return float(text)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise NotPlain from None


def _question(letter: str, node: ast.expr, trusted: frozenset[str]) -> str:
    names = {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}
    if names & trusted or not _may_be_asked(node, trusted):
        raise NotPlain
    return letter + ast.unparse(node)


def _may_be_asked(node: ast.expr, trusted: frozenset[str]) -> bool:
    """Whether the question is about the program's result alone.

    Arguments of its own function are what a test gives. Everything around that call may
    not hold a value: a program could see there what is expected, and replace what works
    it out.
    """
    match node:
        case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if (
            name in WRAPPERS and not _is_literal(inner)
        ):
            return _may_be_asked(inner, trusted)
        case ast.Call(func=function, args=args, keywords=options):
            given = [*args, *(option.value for option in options)]
            if all(_is_literal(x) for x in given) and isinstance(function, ast.Name):
                return True  # a test of Python's own `sum` would test no program
            return _is_theirs(function, trusted) and not any(
                _calls_theirs(x, trusted) for x in given
            )
        case ast.Subscript(value=inner, slice=index):
            return _is_index(index) and _may_be_asked(inner, trusted)
        case ast.Attribute(value=inner):
            return _is_theirs(node, trusted) or _may_be_asked(inner, trusted)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _may_be_asked(inner, trusted)
        case ast.Name():
            return _is_theirs(node, trusted)
    return False


def _is_theirs(node: ast.expr, trusted: frozenset[str]) -> bool:
    """Whether a name, or what is reached through one, is the program's."""
    match node:
        case ast.Name(id=name):
            known = name in BUILTINS or name in trusted
            return not known
        case ast.Attribute(value=ast.Name(id=name)):
            return name not in BUILTINS | trusted | sys.stdlib_module_names
        case ast.Attribute(value=ast.Call() as made):  # Solution().solve
            return _may_be_asked(made, trusted) and not made.args
        case ast.Attribute(value=ast.Attribute() as outer):
            return _is_theirs(outer, trusted)
    return False


def _calls_theirs(node: ast.expr, trusted: frozenset[str]) -> bool:
    """Whether an argument calls or names more than Python's own."""
    return any(
        isinstance(x, ast.Call) and not _is_own(x.func, trusted) for x in ast.walk(node)
    )


def _is_own(function: ast.expr, trusted: frozenset[str]) -> bool:
    return isinstance(function, ast.Name) and (
        function.id in BUILTINS and function.id not in trusted
    )


def _is_literal(node: ast.expr) -> bool:
    try:
        _literal(node)
    except NotPlain:
        return False
    return True


def _is_index(node: ast.expr) -> bool:
    parts = [node]
    if isinstance(node, ast.Slice):
        parts = [x for x in (node.lower, node.upper, node.step) if x]
    return all(_is_literal(x) for x in parts)
