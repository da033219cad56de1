"""Tests that are more than a comparison: what they see of a program, and it of them."""

import pytest

from shared.evaluation.sandbox import run_tests
from shared.evaluation.verdicts import Limits
from shared.evaluation.walls.levels import SandboxError
from shared.evaluation.walls.probe import strongest

try:
    strongest()
except SandboxError as error:
    pytest.skip(f"needs a sandbox: {error}", allow_module_level=True)

QUICK = Limits(cpu_seconds=0.5, wall_seconds=2)
STACK = """
class Stack:
    size = 0
    def __init__(self): self.held = []
    def push(self, x): self.held.append(x)
    def pop(self): return self.held.pop()
    def __len__(self): return len(self.held)
    def __getitem__(self, i): return self.held[i]
    def __eq__(self, other): return True
def make(): return Stack()
def count(n):
    for i in range(n): yield i
def sort(xs): xs.sort()
def clear(xs):
    xs.clear()
    return []
class Own(KeyError): pass
def fail(kind): raise {"value": ValueError, "own": Own, "exit": SystemExit}[kind]("no")
def same(x): return x
"""
PASSED = [
    "s = Stack()\ns.push(1)\ns.push(2)\nassert s.held == [1, 2] and len(s) == 2\n"
    "assert s.pop() == 2 and s[0] == 1 and s[:1] == [1] and list(s) == [1]",
    "assert Stack().size == 0 and abs(Stack().size - 0.1) < 1",
    "s = Stack()\ns.size = 5\nassert 4 < s.size < 6",
    "assert [2 * x for x in count(3)] == [0, 2, 4] and next(count(1)) == 0",
    "xs = [2, 1]\nsort(xs)\nassert xs == [1, 2]",
    "s = make()\nassert same(s) != 1 and not (same(s) == [])",
    "for x in [1e999, -2**70, 'a', {1: (2,)}, frozenset([1]), 2j, None, b'a', True]:\n"
    "    assert same(x) == x and type(same(x)) is type(x)",
    "try:\n    fail('value')\nexcept ValueError as e:\n    assert str(e) == 'no'\n"
    "else:\n    assert False",
    "try:\n    fail('own')\nexcept KeyError:\n    pass\nelse:\n    assert False",
    "def near(a, b):\n    return abs(a - b) < 1\nassert near(same(1), 1.5)",
    "assert math.isclose(same(1), 1 + 1e-12) and sys.getsizeof(same(1)) > 0",
    "assert all(same(x) for x in [1, 2]) and not any(map(same, [0, 0]))",
    "assert same(int) is not int",  # of a type only the program knows what it is
]


def test_what_a_test_sees_of_a_program():
    verdict = run_tests(STACK, PASSED, QUICK)
    wrong = [(test, x) for test, x in zip(PASSED, verdict.results, strict=True)]
    assert not [pair for pair in wrong if pair[1].outcome != "passed"]


@pytest.mark.parametrize(
    "test, outcome, error",
    [
        # A program that empties its argument does not change what is compared with.
        ("xs = [2, 1]\nassert clear(xs) == sorted(xs)", "wrong", ""),
        ("assert abs(make() - 3) < 1", "error", "TypeError"),
        ("assert sorted([make()])[0] == 3 + 0", "wrong", ""),
        ("x = same(object())\nassert x", "error", "TypeError: a object of a test"),
        ("x = fail('exit')", "error", "ProgramError: no"),
        ("assert same(1) == 1 + 1", "wrong", ""),
        ("x = 1 / 0", "error", "ZeroDivisionError"),
        ("while True: pass", "timed out", ""),
        ("x = [0] * 10**10", "out of memory", ""),
        ("import os\nos._exit(0)", "crashed", ""),
    ],
)
def test_what_does_not_pass(test, outcome, error):
    (result,) = run_tests(STACK, [test], QUICK).results
    assert result.outcome == outcome and result.error.startswith(error)


def test_definitions_are_not_the_programs():
    """As HumanEval's `poly`: the program that is asked for has redefined it."""
    prompt = "def poly(x):\n    return x * x - 4\n\ndef zero():\n    '''Of poly.'''\n"
    test = "assert abs(poly(zero())) < 1e-6"
    good = prompt + "    return 2.0\n"
    bad = prompt + "    return 1.0\ndef poly(x): return 0\n"
    assert run_tests(good, [test], QUICK, definitions=prompt).passed
    assert not run_tests(bad, [test], QUICK, definitions=prompt).passed
    assert run_tests(bad, [test], QUICK).passed  # where nobody says what poly is
    with pytest.raises(ValueError, match="definitions must run, got ModuleNotFound"):
        run_tests(good, [test], QUICK, definitions="import no_such_module")


def test_a_program_sees_only_its_arguments():
    """All that reaches it is kept, and holds neither test nor expected value."""
    program = (
        "import sys\nworker = sys.modules['shared.evaluation.walls.inside.worker']\n"
        "seen, old = [], worker.frames.read\n"
        "def read(pipe):\n    seen.append(old(pipe))\n    return seen[-1]\n"
        "worker.frames.read = read\n"
        "def f(x): return x + 1\ndef told(): return ''.join(seen)\n"
    )
    tests = ["assert abs(f(20) - 7421) < 7431", "assert f(30) == 7441"]
    tests += ["assert '7421' not in told() + '' and '7431' not in told()"]
    tests += ["assert '7441' not in told() + '' and '30' in told()"]
    verdict = run_tests(program, tests, QUICK)
    kinds = [result.outcome for result in verdict.results]
    assert kinds == ["passed", "wrong", "passed", "passed"]


def test_state_of_tests_is_kept_in_order():
    tests = ["x = same(1) + 1\nassert x == 2", "assert x + same(1) == 3"]
    assert run_tests(STACK, tests, QUICK).passed
