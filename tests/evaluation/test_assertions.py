"""What of a test is asked of a program, and what never leaves the parent."""

import json
from pathlib import Path

import pytest

from shared.evaluation.walls.assertions import taken_apart
from shared.evaluation.walls.definitions import names, of_tests

DATA = Path(__file__).parents[3] / "shared" / "data"


def requests(test, trusted=frozenset()):
    checks = taken_apart(test, trusted)
    return checks and [check.request for check in checks]


@pytest.mark.parametrize(
    "test, asked",
    [
        ("assert f(2) == 3", ["ef(2)"]),
        ("assert 3 == f(2), 'said'", ["ef(2)"]),
        ("assert f(2) == 3 and not g(x=1)", ["ef(2)", "tg(x=1)"]),
        ("assert f(2) is None\nassert f(1) in (1, 2)", ["ef(2)", "ef(1)"]),
        ("assert list(f(2))[0] == 'a'", ["elist(f(2))[0]"]),
        ("assert Solver().solve([1]) == -1.5", ["eSolver().solve([1])"]),
        ("assert f(lambda x: x + 1, int) == set()", ["ef(lambda x: x + 1, int)"]),
        ("assert sum(10, 15) == 6", ["esum(10, 15)"]),  # a program's own sum
        ("assert f(float('inf')) == float('-inf')", ["ef(float('inf'))"]),
        ("assert True, 'good'\nassert f(2) != frozenset([1])", ["", "ef(2)"]),
        ("assert (root) == 3", ["eroot"]),
        (
            "METADATA = {'a': 1}\ndef check(candidate):\n    '''Of f.'''\n"
            "    assert candidate(2) == 3\ncheck(f)",
            ["ef(2)"],
        ),
    ],
)
def test_is_asked_without_what_is_expected(test, asked):
    assert requests(test) == asked


@pytest.mark.parametrize(
    "test",
    [
        "assert abs(f(2) - 3) < 1e-6",
        "assert math.isclose(f(2), 3)",
        "assert isclose(f(2), 3)",
        "assert near(f(2), 3) == True",
        "assert max(f(2), 3) == 3",
        "assert round(f(2), 1) == 3.1",
        "assert f(2) == g(2)",
        "assert 2 < f(2) < 4",
        "assert f(2) == 3 or f(2) == 4",
        "assert isinstance(f(2), int)",
        "assert f(2) is 3",
        "x = 2\nassert f(x) == 3",
        "for x in [1, 2]:\n    assert f(x) == x + 1",
        "def check(candidate):\n    x = [1]\n    assert candidate(x) == 1\ncheck(f)",
        "def check(candidate, y=3):\n    assert candidate(2) == 3\ncheck(f)",
        "f(2)",
        "assert f(2) == ",
        "assert f(2)[g(3)] == 1",
        "assert (lambda x: x == 3)(f(2))",
        "assert [f(2)] == [3]",
        "assert f.g(h(2), 3)",
        "import os",
    ],
)
def test_belongs_to_the_examiner(test):
    assert requests(test) is None


def test_what_a_test_defines_is_not_the_programs():
    trusted = names("import math as m\ndef near(a, b): return abs(a - b) < 1\nx = 1")
    assert trusted == {"m", "near"}
    assert requests("assert near(2, 3)", trusted) is None
    assert requests("assert f(near) == 1", trusted) is None


def test_definitions_are_of_functions_that_do_something():
    prompt = "import math\n\ndef poly(x):\n    return x\n\ndef f(x):\n    '''f'''\n"
    assert names(prompt) == {"math", "poly"}
    assert "def f" not in of_tests(prompt) and "return x" in of_tests(prompt)
    with pytest.raises(ValueError, match="definitions must be Python"):
        of_tests("def f(")


@pytest.mark.parametrize(
    "test, right, wrong",
    [
        ("assert f() == 1", [1, 1.0, True], [2, "1", None]),
        ("assert f() != 1", [2, "1"], [1, True]),
        ("assert f() is True", [True], [1, False]),
        ("assert f() is not None", [0], [None]),
        ("assert f() in [1, 2]", [2], [3]),
        ("assert 1 in f()", [[1]], [[2], []]),
        ("assert 1 < f()", [2], [1]),
        ("assert f() <= 1", [1], [2]),
        ("assert not f()", [False], [True]),
        ("assert f()", [True], [False]),
    ],
)
def test_answers_are_compared_as_python_does(test, right, wrong):
    (check,) = taken_apart(test)
    assert all(check.holds(value) for value in right)
    assert not any(check.holds(value) for value in wrong)


def test_no_question_of_the_benchmarks_holds_what_is_expected():
    """All of MBPP's tests but a few are comparisons; none tells its right side."""
    if not (DATA / "mbpp").is_dir():
        pytest.skip("needs MBPP in ../shared/data/mbpp")
    apart = others = 0
    for file in sorted((DATA / "mbpp").glob("*.jsonl")):
        for row in map(json.loads, file.read_text("utf-8").splitlines()):
            for test in row["test_list"]:
                asked = requests(test)
                apart, others = apart + bool(asked), others + (asked is None)
                assert not asked or all("==" not in request for request in asked)
    assert apart > 2000 and others < 10
