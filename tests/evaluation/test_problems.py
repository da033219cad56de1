"""Rows of every form -> problems, and what is refused."""

import json
import logging

import pytest

from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import judge, reference
from shared.evaluation.walls.levels import SandboxError
from shared.evaluation.walls.probe import strongest
from tests import repositories
from tests.repositories import contests, mbpp, mbpp_folder

cache = repositories.cache

FULL = {
    "task_id": 11,
    "text": "Add one.",
    "code": "def f(x):\r\n    return x + ONE",
    "test_list": ["assert f(1) == 2", "assert f(2) == 3"],
    "test_setup_code": "ONE = 1",
    "challenge_test_list": ["assert f(1) == 5"],
}
SANITIZED = {
    "task_id": 12,
    "prompt": "Round up.",
    "code": "def f(x):\n    return math.ceil(x)",
    "test_imports": ["import math"],
    "test_list": ["assert f(1.5) == math.ceil(1.5)"],
    "source_file": "a.jsonl",
}
# In EvalPlus's layout: module-level code that checks many inputs with numpy.
PLUS = SANITIZED | {
    "task_id": 13,
    "test": "import numpy as np\ninputs = [[0.5], [1.5]]\nresults = [1, 2]\n"
    "for inp, exp in zip(inputs, results):\n"
    "    assert np.allclose(f(*inp), exp, rtol=1e-07, atol=1e-6)\n",
}
HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "import math\n\ndef f(x):\n    '''Round up.'''\n",
    "canonical_solution": "    return math.ceil(x)\n",
    "test": "def check(candidate):\n    assert candidate(1.5) == 2\n",
    "entry_point": "f",
}
PUBLIC = {"input": ["1\n"], "output": ["2\n"]}
CONTEST = {
    "name": "a",
    "description": "Add one.",
    "public_tests": PUBLIC,
    "private_tests": {"input": ["3\n", "4\n"], "output": ["4\n", "5\n"]},
    "solution": "print(int(input()) + 1)",
}


def write(folder, *rows, name="test"):
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def refused(*asked, **options):
    with pytest.raises(ValueError) as caught:
        load_problems(*asked, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


def test_mbpp_full_and_sanitized(tmp_path):
    full, sanitized = load_problems("mbpp", write(tmp_path, FULL, SANITIZED))
    assert full.statement == "Add one." and full.setup == "ONE = 1"
    assert full.solution == "def f(x):\n    return x + ONE"
    assert full.tests == full.shown == ("assert f(1) == 2", "assert f(2) == 3")
    assert (sanitized.id, sanitized.statement) == ("12", "Round up.")
    assert sanitized.setup == "import math" and not sanitized.definitions


def test_plus_is_judged_by_its_own_test(tmp_path):
    (problem,) = load_problems("mbpp_plus", write(tmp_path, PLUS))
    assert problem.tests == (PLUS["test"],)
    assert problem.shown == tuple(PLUS["test_list"])
    (problem,) = load_problems("humaneval_plus", write(tmp_path, HUMANEVAL))
    assert problem.tests == (HUMANEVAL["test"] + "\ncheck(f)",)
    assert problem.definitions == problem.statement == HUMANEVAL["prompt"]
    assert reference(problem) == HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]


def test_contests_of_both_layouts(tmp_path):
    (ours,) = load_problems("contest", write(tmp_path, CONTEST))
    assert [case.given for case in ours.cases] == ["1\n", "3\n", "4\n"]
    folder = tmp_path / "code_contests"
    rows = contests([[2], [1, 3]])
    rows[1]["name"] = rows[0]["name"]
    repositories.write(folder / "data", "code_contests", test=rows)
    none, python = load_problems("contest", str(folder))
    assert none.solution == "" and python.solution == "in 3"
    assert (none.id, python.id) == ("problem 0", "problem 0 (2)")
    assert [case.expected for case in none.cases] == ["1\n"]
    with pytest.raises(ValueError, match=r"^contest problem 0 must have a reference"):
        reference(none)


def test_a_folder_of_parquet_files(tmp_path):
    mbpp_folder(tmp_path)
    found = load_problems("mbpp", str(tmp_path), limit=2)
    assert [problem.id for problem in found] == ["11", "12"]
    found = load_problems("mbpp", str(tmp_path), split="validation")
    assert [problem.id for problem in found] == [str(x) for x in range(511, 517)]


@pytest.mark.parametrize("task, number", [("mbpp", 20), ("humaneval", 10)])
def test_the_minis(task, number):
    assert len(load_problems(task, "minis")) == number
    assert len(load_problems(task, "minis", limit=3)) == 3


def test_training_problems_are_no_test_problems(tmp_path, caplog):
    write(tmp_path, *mbpp([11, 601]))
    assert refused("mbpp", str(tmp_path)) == (
        f"{tmp_path}/test.jsonl, line 2: MBPP's split test must hold task_id 11 to "
        "510, got 601 (of train)"
    )
    write(tmp_path, *mbpp([975]), name="train")
    assert refused("mbpp", str(tmp_path), split="train").endswith("974, got 975")
    everything = write(tmp_path, *mbpp([2, 11, 12, 511, 601]), name="mbpp")
    with caplog.at_level(logging.WARNING):
        assert [x.id for x in load_problems("mbpp", everything)] == ["11", "12"]
    assert caplog.messages == [
        "mbpp: 3 problems are left out, which are not of MBPP's split test (task_id 11 "
        "to 510)"
    ]
    assert len(load_problems("mbpp", everything, all_ids=True)) == 5
    assert [x.id for x in load_problems("mbpp", everything, split="train")] == ["601"]
    assert "at least one problem of the split few-shot" in refused(
        "mbpp", write(tmp_path, FULL), split="few-shot"
    )


def test_plus_leaves_out_what_was_trained_on(tmp_path):
    rows = [PLUS | {"task_id": x} for x in ("Mbpp/2", "Mbpp/13", 601)]
    write(tmp_path, *rows)
    assert [x.id for x in load_problems("mbpp_plus", str(tmp_path))] == ["Mbpp/13"]
    assert len(load_problems("mbpp_plus", str(tmp_path), all_ids=True)) == 3


def _without(row, key):
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    "task, row, said",
    [
        ("mbpp", _without(FULL, "code"), "without code"),
        (
            "mbpp",
            FULL | {"test_list": []},
            "'test_list' must be a list of at least one",
        ),
        ("mbpp", SANITIZED | {"test_imports": "math"}, "'test_imports' must be a list"),
        (
            "mbpp",
            HUMANEVAL,
            "a problem of mbpp must have the keys task_id, prompt, code",
        ),
        (
            "mbpp",
            FULL | {"test_list": ["assert f("]},
            "must be Python, got Syn",
        ),
        ("humaneval", HUMANEVAL | {"prompt": "def f("}, "must be Python, got Syntax"),
        ("mbpp_plus", SANITIZED, "without test"),
        ("humaneval", HUMANEVAL | {"entry_point": "f()"}, "must be a name of Python"),
        ("humaneval", HUMANEVAL | {"test": None}, "'test' must be a string, got None"),
        ("humaneval", HUMANEVAL | {"prompt": "\ud800"}, "half of a surrogate pair"),
        ("contest", _without(CONTEST, "solution"), "without solutions"),
        (
            "contest",
            CONTEST | {"public_tests": {"input": ["1"], "output": []}},
            "two equally long lists",
        ),
        (
            "contest",
            _without(CONTEST, "private_tests")
            | {"public_tests": {"input": [], "output": []}},
            "must have at least one test, got none",
        ),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path, task, row, said):
    text = refused(task, write(tmp_path, row))
    assert f"{tmp_path}/test.jsonl, line 1: " in text and said in text


def test_a_repeated_id_is_refused(tmp_path):
    file = write(tmp_path, HUMANEVAL, HUMANEVAL)
    assert refused("humaneval", file) == (
        f"{file}, line 2: ids must be unique, got 'HumanEval/0' again, after {file}, "
        "line 1"
    )


@pytest.mark.parametrize(
    "task, source, said",
    [
        ("other", "minis", "a task must be one of mbpp, mbpp_plus, humaneval, "),
        ("mbpp", "humaneval", "the source of mbpp must be minis, mbpp, a folder or"),
        ("mbpp_plus", "minis", "the source of mbpp_plus must be a folder or one"),
        ("contest", "nowhere", "must be minis, code_contests, a folder or one .jsonl"),
        ("mbpp", "none.jsonl", "data needs none.jsonl as a readable file"),
    ],
)
def test_other_sources_are_refused(task, source, said):
    assert said in refused(task, source)


def test_a_source_without_the_split(tmp_path):
    assert refused("mbpp", str(tmp_path)) == (
        "the source of mbpp must have the split test or test_mini, got none of them in "
        f"'{tmp_path}'"
    )


def test_judged(tmp_path):
    """Setup, imports and numpy are there for the tests; wrong programs fail."""
    try:
        strongest()
    except SandboxError as error:
        pytest.skip(f"needs a sandbox: {error}")
    rows = {"mbpp": [FULL, SANITIZED], "mbpp_plus": [PLUS], "humaneval": [HUMANEVAL]}
    rows |= {"humaneval_plus": [HUMANEVAL], "contest": [CONTEST]}
    for task, of in rows.items():
        for problem in load_problems(task, write(tmp_path, *of)):
            right = judge(problem, reference(problem))
            assert right.passed, (task, right)
            changed = reference(problem).replace("ceil", "floor").replace(" + ", " - ")
            assert not judge(problem, changed).passed, task
