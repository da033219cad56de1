"""Reference solutions that a sandbox may easily refuse pass; changed ones do not.

All of them, in the form of completions: `test_solutions.py`.
"""

from pathlib import Path

import pytest

from benchmarks.sandbox import read_problems
from shared.evaluation.tasks.problems import judge, reference
from shared.evaluation.verdicts import Limits
from shared.evaluation.walls.levels import SandboxError
from shared.evaluation.walls.probe import strongest

try:
    strongest()
except SandboxError as error:
    pytest.skip(f"needs a sandbox: {error}", allow_module_level=True)

DATA = Path(__file__).parents[3] / "shared" / "data"
SLOW = Limits(cpu_seconds=30, wall_seconds=120)
KEPT = {
    # Classes of its own, a name of Python's own, `sys` in a test, more than the usual
    # time.
    "MBPP": {"601", "927", "126", "596", "11", "511", "974"},
    # Tolerances, loops, helpers of the prompt, an import before the docstring.
    "HumanEval": {f"HumanEval/{x}" for x in (2, 32, 38, 50, 115, 151, 0, 163)},
}


@pytest.fixture(scope="module")
def problems():
    if not (DATA / "mbpp").is_dir() or not (DATA / "humaneval").is_dir():
        pytest.skip("needs MBPP and HumanEval in ../shared/data")
    return read_problems(DATA)


@pytest.mark.parametrize("name", KEPT)
def test_references_pass(name, problems):
    chosen = [problem for problem in problems[name] if problem.id in KEPT[name]]
    assert len(chosen) == len(KEPT[name])
    for problem in chosen:
        verdict = judge(problem, reference(problem), SLOW)
        assert verdict.passed, (problem.id, verdict.results)


def test_a_changed_solution_fails(problems):
    """No verdict passes whatever it is given."""
    for problem in problems["HumanEval"][:40:8]:
        assert not judge(problem, f"{problem.statement}    return None\n").passed
