"""Reference solutions go the way of completions: stop list, program, sandbox."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from itertools import cycle
from pathlib import Path

import pytest

from shared.evaluation.sandbox import run_tests
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import judge
from shared.evaluation.tasks.prompts import FORMS
from shared.evaluation.verdicts import Limits
from shared.evaluation.walls.levels import SandboxError
from shared.evaluation.walls.probe import strongest

try:
    strongest()
except SandboxError as error:
    pytest.skip(f"needs a sandbox: {error}", allow_module_level=True)

DATA = Path(__file__).parents[3] / "shared" / "data"
LIMITS = Limits(cpu_seconds=30, wall_seconds=120)
# Those that do not pass, and why.
EXCEPTIONS = {
    # BigCode's own stop list cuts it before `class Node`.
    ("mbpp zero-shot", "342"),
}


def failed(asked):
    """Of (form, problem), those whose program does not pass; each program runs once."""
    programs = {}
    for form, problem in asked:
        program = form.program(problem, form.gold(problem) + "\n")
        programs.setdefault((problem.task, problem.id, program), (form, problem))

    def passes(key):
        _, problem = programs[key]
        return judge(problem, key[2], LIMITS).passed

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(passes, programs))
    pairs = zip(programs.values(), found, strict=True)
    return {(form.name, problem.id) for (form, problem), passed in pairs if not passed}


@pytest.mark.parametrize("task", ["mbpp", "humaneval", "contest"])
def test_those_of_the_minis_pass(task):
    """Each in one of the forms, in turn."""
    forms = cycle(form for form in FORMS if task in form.tasks)
    problems = load_problems(task, "minis")
    assert not failed(zip(forms, problems, strict=False))


def test_the_shots_pass():
    text = (
        files("shared.evaluation.tasks").joinpath("mbpp_shots.json").read_text("utf-8")
    )
    for row in json.loads(text)["shots"]:
        assert run_tests(row["code"], row["test_list"], LIMITS).passed, row["task_id"]


@pytest.mark.slow
@pytest.mark.parametrize("task, number", [("mbpp", 974 - 10), ("humaneval", 164)])
def test_those_of_the_real_data_pass(task, number):
    """In every form; MBPP's first ten are shots and in no split that is read."""
    if not (DATA / task).is_dir():
        pytest.skip(f"needs {task} in ../shared/data")
    splits = ["test", "validation", "train"] if task == "mbpp" else ["test"]
    problems = [
        p for x in splits for p in load_problems(task, str(DATA / task), split=x)
    ]
    assert len(problems) == number
    forms = [form for form in FORMS if task in form.tasks]
    names = {form.name for form in forms}
    expected = {pair for pair in EXCEPTIONS if pair[0] in names}
    assert failed((form, x) for form in forms for x in problems) == expected
