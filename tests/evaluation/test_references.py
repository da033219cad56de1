"""Reference solutions of MBPP and HumanEval pass; some of them in the normal run."""

from pathlib import Path

import pytest

from benchmarks.sandbox import read_tasks
from shared.evaluation.levels import SandboxError
from shared.evaluation.probe import strongest
from shared.evaluation.sandbox import run_tests
from shared.evaluation.verdicts import Limits
from tests.cases import shorter

try:
    strongest()
except SandboxError as error:
    pytest.skip(f"needs a sandbox: {error}", allow_module_level=True)

DATA = Path(__file__).parents[3] / "shared" / "data"
SLOW = Limits(cpu_seconds=30, wall_seconds=120)
# Classes of its own, a name of Python's own, `sys` in a test, more than the usual time.
MBPP = [601, 927, 126, 596, 2, 11, 511, 974]
# Tolerances, loops, helpers of the prompt, an import before the docstring.
HUMANEVAL = [2, 32, 38, 50, 115, 151, 0, 163]
KEPT = {"MBPP": MBPP, "HumanEval": [f"HumanEval/{number}" for number in HUMANEVAL]}


@pytest.mark.parametrize("whole", shorter([False, True], [False]))
def test_references_pass(whole):
    if not (DATA / "mbpp").is_dir() or not (DATA / "humaneval").is_dir():
        pytest.skip("needs MBPP and HumanEval in ../shared/data")
    failed, count = [], 0
    for name, tasks in read_tasks(DATA):
        for task in tasks:
            ident = task.pop("id")
            if whole or ident in KEPT[name]:
                verdict = run_tests(**task, limits=SLOW)
                count += 1
                failed += [] if verdict.passed else [(name, ident, verdict.results)]
    assert not failed and count >= len(MBPP)


def test_a_changed_solution_fails():
    """No verdict passes whatever it is given."""
    if not (DATA / "humaneval").is_dir():
        pytest.skip("needs MBPP and HumanEval in ../shared/data")
    (_, tasks), _ = read_tasks(DATA)
    for task in tasks[:40:8]:
        head, name = task["definitions"], task["tests"][0].split("check(")[-1][:-1]
        program = f"{head}    return None\n"
        assert name in program
        assert not run_tests(program, task["tests"], definitions=head).passed
