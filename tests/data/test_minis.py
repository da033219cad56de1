"""The mini data sets: every solution passes its tests, and no test set is toothless.

Nothing of the data runs inside pytest: each file goes to one isolated child process,
which runs its programs one by one under a time limit and reports on each.
"""

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

import shared
from shared.data.contamination import ngrams, words

MINIS = Path(shared.__file__).parent / "data" / "minis"
REAL_DATA = Path(__file__).parents[3] / "shared" / "data"

# file -> (fewest problems, most problems)
SIZES = {
    "mbpp/train_mini": (10, 10),
    "mbpp/train": (80, 120),
    "mbpp/reference": (24, 60),
    "mbpp/validation": (16, 40),
    "mbpp/test_mini": (16, 40),
    "humaneval/test_mini": (8, 20),
    "contest/test_mini": (8, 20),
}
KEYS = {
    "mbpp": "task_id text code test_list test_setup_code challenge_test_list",
    "humaneval": "task_id prompt entry_point canonical_solution test",
    "contest": "name description public_tests private_tests solution",
}
FILES = list(SIZES)

# Reads [seconds, [[source, stdin], ...]] and answers [[error or null, stdout], ...].
CHILD = """
import io, json, signal, sys

def stop(*_):
    raise TimeoutError("time limit")

def run(source, stdin):
    sys.stdin, sys.stdout = io.StringIO(stdin), io.StringIO()
    error = None
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        exec(compile(source, "<problem>", "exec"), {"__name__": "__main__"})
    except BaseException as raised:
        error = type(raised).__name__ + ": " + str(raised)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return [error, sys.stdout.getvalue()]

answer = sys.stdout
signal.signal(signal.SIGALRM, stop)
seconds, programs = json.load(sys.stdin)
json.dump([run(*program) for program in programs], answer)
"""


def run_isolated(
    programs: list[tuple[str, str]], folder: Path, seconds: float = 2.0
) -> list[list]:
    """Run (source, stdin) programs in one child; (error or None, stdout) for each."""
    child = subprocess.run(
        [sys.executable, "-I", "-c", CHILD],
        input=json.dumps([seconds, programs]),
        capture_output=True,
        text=True,
        timeout=30,
        cwd=folder,
        env={},
        check=True,
    )
    return json.loads(child.stdout)


def read(file: str) -> list[dict]:
    lines = (MINIS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def identity(row: dict) -> str:
    return row["name"] if "name" in row else row["task_id"]


def statement(row: dict) -> str:
    return row.get("text") or row.get("prompt") or row["description"]


def solution(row: dict) -> str:
    if "prompt" in row:
        return row["prompt"] + row["canonical_solution"]
    return row.get("code") or row["solution"]


def document(row: dict) -> str:
    return solution(row) if "prompt" in row else f"{statement(row)}\n{solution(row)}"


def everything() -> list[dict]:
    return [row for file in FILES for row in read(file)]


def returns_none(source: str) -> str:
    """The program with every function body but that of `__init__` emptied."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name != "__init__":
            node.body = [ast.Return(ast.Constant(None))]
    return ast.unparse(ast.fix_missing_locations(tree))


def cases(row: dict, source: str) -> Iterator[tuple[str, str, str]]:
    """The (source, stdin, wanted stdout) programs that judge one solution."""
    if "code" in row:
        checks = "\n".join(row["test_list"])
        yield f"{row['test_setup_code']}\n{source}\n{checks}\n", "", ""
    elif "prompt" in row:
        yield f"{source}\n{row['test']}\ncheck({row['entry_point']})\n", "", ""
    else:
        for tests in (row["public_tests"], row["private_tests"]):
            for stdin, stdout in zip(tests["input"], tests["output"], strict=True):
                yield source, stdin, stdout


def failures(rows: list[dict], sources: list[str], folder: Path) -> dict[str, str]:
    """Identity -> what went wrong, for every problem whose source fails its tests."""
    judged = [
        (identity(row), *case)
        for row, source in zip(rows, sources, strict=True)
        for case in cases(row, source)
    ]
    answers = run_isolated([(case[1], case[2]) for case in judged], folder)
    failed = {}
    for (name, _, _, wanted), (error, printed) in zip(judged, answers, strict=True):
        if error or printed != wanted:
            failed[name] = error or f"printed {printed!r}, wanted {wanted!r}"
    return failed


def leaks(rows: list[dict], foreign: list[str]) -> dict[str, str]:
    """Identity -> a 13-gram that the problem shares with any foreign document."""
    known = set().union(*map(ngrams, foreign))
    found = {}
    for row in rows:
        if common := ngrams(document(row)) & known:
            found[identity(row)] = min(common)
    return found


def without_names(source: str) -> str:
    """The program with names numbered in order of use and docstrings left out."""
    tree = ast.parse(source)
    numbers: dict[str, str] = {}
    renamed = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr"}
    renamed |= {ast.FunctionDef: "name", ast.ClassDef: "name"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
        if field := renamed.get(type(node)):
            name = getattr(node, field)
            setattr(node, field, numbers.setdefault(name, f"name_{len(numbers)}"))
    return ast.unparse(tree)


@pytest.mark.parametrize("file", FILES)
def test_every_solution_passes_its_tests(file, tmp_path):
    rows = read(file)
    assert failures(rows, [solution(row) for row in rows], tmp_path) == {}


@pytest.mark.parametrize("file", FILES)
def test_every_empty_solution_fails(file, tmp_path):
    rows = read(file)
    empty = ["" if "name" in row else returns_none(solution(row)) for row in rows]
    failed = failures(rows, empty, tmp_path)
    assert [identity(row) for row in rows if identity(row) not in failed] == []


def test_examples_in_prompts_are_true(tmp_path):
    rows = read("humaneval/test_mini")
    check = "import doctest\nassert doctest.testmod(verbose=False) == (0, 1)\n"
    # A module of that name must exist for doctest to find the function in it.
    load = "import sys, types\nm = sys.modules['__main__'] = types.ModuleType('m')\n"
    runs = [f"{load}exec({solution(row)!r}, m.__dict__)\n{check}" for row in rows]
    programs = [(run, "") for run in runs]
    assert [error for error, _ in run_isolated(programs, tmp_path) if error] == []


def test_runner_tells_right_from_wrong(tmp_path):
    programs = [
        ("print(int(input()) + 1)", "4\n"),
        ("assert 1 == 2", ""),
        ("while True: pass", ""),
        ("raise SystemExit(3)", ""),
    ]
    answers = run_isolated(programs, tmp_path, seconds=0.2)
    assert answers[0] == [None, "5\n"]
    assert [(error or "").split(":")[0] for error, _ in answers[1:]] == [
        "AssertionError",
        "TimeoutError",
        "SystemExit",
    ]


@pytest.mark.parametrize("file", FILES)
def test_files_have_the_promised_size_and_keys(file):
    rows = read(file)
    fewest, most = SIZES[file]
    assert fewest <= len(rows) <= most
    family, split = file.split("/")
    prefix = f"{split}/" if family == "mbpp" else "mini/"
    for row in rows:
        assert list(row) == KEYS[family].split(), identity(row)
        assert identity(row).startswith(prefix)
        assert "\r" not in document(row) and "\t" not in document(row)
        assert max(map(len, solution(row).splitlines())) <= 100, identity(row)


def test_no_other_file_lies_in_the_minis():
    found = {str(path.relative_to(MINIS)) for path in MINIS.rglob("*.jsonl")}
    assert found == {f"{file}.jsonl" for file in FILES}


def test_mbpp_rows_have_three_checks_and_modest_length():
    rows = [row for file in FILES if file.startswith("mbpp") for row in read(file)]
    for row in rows:
        assert len(row["test_list"]) == 3, identity(row)
        assert all(check.startswith("assert ") for check in row["test_list"])
    lengths = [
        len(row["text"]) + len(row["test_list"][0]) + len(row["code"]) for row in rows
    ]
    assert 150 <= median(lengths) <= 450
    assert sum(length < 500 for length in lengths) >= 0.95 * len(lengths)
    assert max(lengths) < 600


@pytest.mark.parametrize(
    "view", [identity, statement, solution, lambda row: without_names(solution(row))]
)
def test_all_problems_are_distinct(view):
    counts = Counter(view(row) for row in everything())
    assert [key for key, count in counts.items() if count > 1] == []


def test_renaming_does_not_hide_a_copy():
    first = "def f(a, b):\n    total = a + b\n    return total"
    second = "def g(x, y):\n    'Doc.'\n    s = x + y\n    return s"
    other = "def g(x, y):\n    s = x + y\n    return x"
    assert without_names(first) == without_names(second)
    assert without_names(first) != without_names(other)


def test_splits_share_no_thirteen_words():
    for file in FILES:
        others = [document(row) for name in FILES if name != file for row in read(name)]
        assert leaks(read(file), others) == {}, file


@pytest.mark.parametrize(
    "name", ["mbpp/test", "humaneval/test", "mbpp/train", "mbpp/validation"]
)
def test_no_thirteen_words_from_the_benchmarks(name):
    path = REAL_DATA / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"the real {name}.jsonl is not beside the checkout")
    lines = path.read_text(encoding="utf-8").splitlines()
    foreign = [document(json.loads(line)) for line in lines]
    assert len(foreign) > 50
    assert leaks(everything(), foreign) == {}


def test_leak_check_finds_a_planted_leak():
    phrase = "count every blue bird that sits in the tall old tree by noon".split()
    foreign = [" ".join(phrase) + " x = y + 1"]
    row = {"task_id": "train/1", "text": "Write a function.", "code": "pass"}
    assert leaks([row], foreign) == {}
    assert leaks([row | {"code": " ".join(phrase[:12])}], foreign) == {}
    planted = row | {"code": "# " + "  \n".join(phrase[:13]).upper()}
    assert list(leaks([planted], foreign)) == ["train/1"]
    # the same through the real data, with operators in the gram
    victim = read("mbpp/test_mini")[0]
    piece = " ".join(words(document(victim))[-13:])
    assert list(leaks([row | {"code": piece}], [document(victim)])) == ["train/1"]
