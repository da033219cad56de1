"""Rows of a source -> problems of a benchmark; what is for training stays out."""

import ast
import logging
import re
import warnings
from collections.abc import Iterator

from shared.data import hub
from shared.data.examples import Rows, check_text, first_python, unused_name
from shared.data.kinds import (
    ID,
    SOLUTIONS,
    TESTS,
    TEXT,
    TEXTS,
    Kind,
    Row,
    check_row,
)
from shared.data.sources import WHOLE, open_source
from shared.evaluation.tasks.problems import TASKS, Problem, Task
from shared.evaluation.walls.scripts import Case
from shared.messages import named_line

log = logging.getLogger("wmtp")

SPLITS = ("test", "test_mini")  # the first that a source has, if none is named
# Task ids of MBPP, from its README (github.com/google-research/google-research, mbpp/);
# the shots of its paper are 2, 3 and 4.
IDS = {
    "few-shot": range(1, 11),
    "test": range(11, 511),
    "validation": range(511, 601),
    "train": range(601, 975),
}
HUB: dict[str, Task] = {"mbpp": "mbpp", "humaneval": "humaneval"}
HUB["code_contests"] = "contest"

EMPTY: dict[str, list[str]] = {"input": [], "output": []}
IMPORTS: Kind = (
    "a list of strings",
    lambda x: isinstance(x, list) and all(isinstance(y, str) for y in x),
)
NAME: Kind = ("a name of Python", lambda x: isinstance(x, str) and x.isidentifier())
PAIRS: Kind = (
    "{input, output}, two equally long lists of strings",
    lambda x: x == EMPTY or TESTS[1](x),
)


def load_problems(
    task: Task, source: str, *, split: str = "", limit: int = 0, all_ids: bool = False
) -> list[Problem]:
    """The first problems of a source.

    MBPP's rows are held to its task ids, since copies of the data set with training
    problems in the test split are about. Of what mixes them (one file without a split,
    and MBPP+, which is made of all of MBPP) those of the split are taken.

    Args:
      task: one of `TASKS`. The rows of `mbpp` are the full data set's or the sanitized
        one's; those of `mbpp_plus` and `humaneval_plus` have EvalPlus's `test`.
      source: `minis`; the name on the hub (`mbpp`, `humaneval`, `code_contests` for
        contests); a folder of SPLIT.jsonl or parquet files; or one .jsonl file.
      split: `test` if none is named, or `test_mini` if the source has no other.
      limit: at most so many; 0 takes all.
      all_ids: keep what of MBPP is not of the split, as published numbers of MBPP+ do.

    Raises:
      ValueError: if there is no such source or split, a row is no problem of the task,
        or it is one of another split.
    """
    if task not in TASKS:
        raise ValueError(f"a task must be one of {', '.join(TASKS)}, got {task!r}")
    found, rows = _rows(task, source, split)
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for where, row in _of_split(task, found, split or "test", rows, all_ids):
        problem = _problem(task, row, where, seen)
        check_text(problem.id + problem.statement + problem.solution, where)
        _check_python(problem, where)
        _check_unique(problem.id, where, seen)
        problems.append(problem)
        if len(problems) == limit:
            break
    if not problems:
        raise ValueError(
            f"{task} must have at least one problem of the split "
            f"{split or 'test'}, got none in {source}"
        )
    return problems


def _check_unique(name: str, where: str, seen: dict[str, str]) -> None:
    if (before := seen.setdefault(name, where)) != where:
        raise ValueError(
            f"{where}: ids must be unique, got {name!r} again, after {before}"
        )


def _rows(task: Task, source: str, split: str) -> tuple[str, Rows]:
    """The split that was found, `WHOLE` for one file, and its rows."""
    plus = task.endswith("_plus")
    wanted = (split,) if split else SPLITS
    found = None
    if HUB.get(source, task) == task and not (plus and source == "minis"):
        found = open_source(source, wanted, minis=task, tests=True)
    if found is None:
        names = [name for name in hub.SOURCES if HUB[name] == task]
        forms = [*(["minis"] * (not plus)), *names, "a folder or one .jsonl file"]
        raise ValueError(
            f"the source of {task} must be {', '.join(forms)}, got {source!r}"
        )
    for name in (*wanted, WHOLE):
        if name in found:
            return name, found[name]
    raise ValueError(
        f"the source of {task} must have the split {' or '.join(wanted)}, got "
        f"{', '.join(found) or 'none of them'} in {source!r}"
    )


def _of_split(
    task: Task, found: str, split: str, rows: Rows, all_ids: bool
) -> Iterator[tuple[str, Row]]:
    if not task.startswith("mbpp") or all_ids or split not in IDS:
        yield from rows
        return
    mixed = found == WHOLE or task == "mbpp_plus"
    ids, left_out = IDS[split], 0
    for where, row in rows:
        number = _number(row)
        if number is None or number in ids:
            yield where, row
        elif mixed:
            left_out += 1
        else:
            others = [name for name in IDS if number in IDS[name]]
            of = f" (of {others[0]})" if others else ""
            raise ValueError(
                f"{where}: MBPP's split {split} must hold task_id {ids[0]} to "
                f"{ids[-1]}, got {number}{of}"
            )
    if left_out:
        log.warning(
            "%s: %d problems are left out, which are not of MBPP's split %s (task_id "
            "%d to %d)", task, left_out, split, ids[0], ids[-1],
        )  # fmt: skip


def _number(row: Row) -> int | None:
    """The task id of MBPP; None for rows of somebody's own."""
    found = re.fullmatch(r"(?:Mbpp/)?([0-9]+)", str(row.get("task_id", "")))
    return int(found[1]) if found else None


def _problem(task: Task, row: Row, where: str, seen: dict[str, str]) -> Problem:
    match task:
        case "mbpp" | "mbpp_plus":
            return _mbpp(task, row, where)
        case "humaneval" | "humaneval_plus":
            return _humaneval(task, row, where)
        case _:
            return _contest(task, row, where, seen)


def _check_python(problem: Problem, where: str) -> None:
    """Of what is trusted; a solution may be anything."""
    for text in (problem.setup, problem.definitions, *problem.tests):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that mean nothing
                ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{where}: setup and tests of a problem must be Python, got "
                f"{named_line(error)}"
            ) from None


def _mbpp(task: Task, row: Row, where: str) -> Problem:
    """`challenge_test_list` judges nowhere."""
    text = "prompt" if "text" not in row and "prompt" in row else "text"
    keys: dict[str, Kind] = {"task_id": ID, text: TEXT, "code": TEXT}
    keys["test_list"] = TEXTS
    if task == "mbpp_plus":
        keys["test"] = TEXT
    own = {"test_setup_code": TEXT, "test_imports": IMPORTS}
    keys |= {name: kind for name, kind in own.items() if name in row}
    check_row(row, keys, f"a problem of {task}", where)
    setup = [*row.get("test_imports", []), row.get("test_setup_code", "")]
    shown = tuple(row["test_list"])
    return Problem(
        task=task,
        id=str(row["task_id"]),
        statement=row[text],
        solution=row["code"].replace("\r\n", "\n"),
        tests=(row["test"],) if task == "mbpp_plus" else shown,
        shown=shown,
        setup="\n".join(filter(None, setup)),
    )


def _humaneval(task: Task, row: Row, where: str) -> Problem:
    keys = {"task_id": ID, "prompt": TEXT, "canonical_solution": TEXT, "test": TEXT}
    check_row(row, keys | {"entry_point": NAME}, f"a problem of {task}", where)
    return Problem(
        task=task,
        id=str(row["task_id"]),
        statement=row["prompt"],
        solution=row["canonical_solution"].replace("\r\n", "\n"),
        tests=(f"{row['test']}\ncheck({row['entry_point']})",),
        definitions=row["prompt"],
        entry_point=row["entry_point"],
    )


def _contest(task: Task, row: Row, where: str, seen: dict[str, str]) -> Problem:
    """All tests judge; no prompt shows them but as the statement tells them."""
    ours = "solution" in row
    keys = {"name": ID, "description": TEXT, "public_tests": PAIRS}
    keys |= {"solution": TEXT} if ours else {"solutions": SOLUTIONS}
    keys |= {name: PAIRS for name in hub.TESTS if name in row}
    check_row(row, keys, f"a problem of {task}", where)
    pairs = [row[name] for name in hub.TESTS if name in row]
    cases = [
        Case(given, expected)
        for tests in pairs
        for given, expected in zip(tests["input"], tests["output"], strict=True)
    ]
    if not cases:
        raise ValueError(f"{where}: a problem must have at least one test, got none")
    name = str(row["name"])
    solution = (row["solution"] if ours else first_python(row)) or ""
    return Problem(
        task=task,
        id=name if ours else unused_name(name, seen),
        statement=row["description"],
        solution=solution.replace("\r\n", "\n"),
        cases=tuple(cases),
    )
