"""What of a trusted text a test may use without asking the program."""

import ast

KINDS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def of_tests(text: str) -> str:
    """Imports, classes and functions of a text, but no function that does nothing.

    A prompt of HumanEval ends with the head of the function that is asked for, and may
    hold others that its test calls.

    Raises:
      ValueError: if the text is no Python.
    """
    return ast.unparse(ast.Module(_defined(text), []))


def names(text: str) -> frozenset[str]:
    """The names that `of_tests` defines."""
    found = set()
    for node in _defined(text):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(x.asname or x.name).split(".")[0] for x in node.names}
        else:
            found.add(node.name)  # type: ignore[attr-defined]
    return frozenset(found)


def _defined(text: str) -> list[ast.stmt]:
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"definitions must be Python, got {error}") from None
    return [x for x in body if isinstance(x, KINDS) and not _is_stub(x)]


def _is_stub(node: ast.stmt) -> bool:
    """Whether a function's body does nothing."""
    return isinstance(node, ast.FunctionDef) and all(
        isinstance(x, ast.Pass | ast.Import | ast.ImportFrom)
        or (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))
        for x in node.body
    )
