"""The sandbox: hostile programs contained, milliseconds a run, reference solutions.

    python -m benchmarks.sandbox hostile
    python -m benchmarks.sandbox speed --runs 50
    python -m benchmarks.sandbox references --data FOLDER_WITH_MBPP_AND_HUMANEVAL

Hostile programs run in a process of their own, since a weak level lets them change it;
they do no harm where they get through. Seconds are wall time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.runs import options_parser, print_table
from shared.evaluation.assertions import taken_apart
from shared.evaluation.levels import LADDER
from shared.evaluation.loading import load_problems
from shared.evaluation.probe import strongest
from shared.evaluation.problems import Problem, judge, reference
from shared.evaluation.sandbox import run_cases, run_tests
from shared.evaluation.scripts import Case
from shared.evaluation.verdicts import Verdict

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
PROGRAM = "def f(x):\n    return x + 1\n"
PLAIN = "plain user"
MBPP = ("test", "validation", "train")  # splits of a folder
ALONE = ("namespaces", "landlock", "seccomp")  # each wall without the others


def options() -> argparse.Namespace:
    parser = options_parser(__doc__ or "")
    parser.add_argument("table", choices=["hostile", "speed", "references"])
    parser.add_argument("--runs", type=int, default=50, help="timed of each kind")
    parser.add_argument("--data", type=Path, help="folder of mbpp/ and humaneval/")
    parser.add_argument("--names", nargs="*", default=[], help="of hostile programs")
    parser.add_argument("--levels", nargs="*", help="rows of these titles alone")
    return parser.parse_args()


def main() -> None:
    asked = options()
    if asked.table == "hostile":
        rows = hostile_rows(asked.names, asked.levels)
    elif asked.table == "speed":
        rows = [speed(name, run, asked.runs) for name, run in KINDS.items()]
    elif asked.data is None:
        raise SystemExit("--data must name the folder of mbpp/ and humaneval/")
    else:
        rows = [references(*pair) for pair in read_problems(asked.data).items()]
    print_table(rows, asked.json)


# Hostile programs.


def hostile_rows(names: list[str], titles: list[str] | None) -> list[Row]:
    """A row of each level and user: contained of how many, by family."""
    levels = {level.name: level.walls for level in LADDER}
    if os.geteuid() == 0:
        levels |= {f"{level.name}, {PLAIN}": level.walls for level in LADDER}
    levels |= {f"{wall} alone": (wall,) for wall in ALONE} | {"unsafe": ()}
    return [
        contained(title, walls, names)
        for title, walls in levels.items()
        if titles is None or title in titles
    ]


def contained(title: str, walls: tuple[str, ...], names: list[str]) -> Row:
    """One row, of a process that runs all programs behind these walls."""
    command = [sys.executable, "-m", "tests.evaluation.separate"]
    command += ["--plain"] * title.endswith(PLAIN) + [
        "--walls",
        ",".join(walls),
        *names,
    ]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = [json.loads(line) for line in told.stdout.splitlines()]
    if told.returncode or not found:
        raise SystemExit(f"{title}: {told.stderr.strip().splitlines()[-1:]}")
    row: Row = {"level": title}
    for family in dict.fromkeys(each["family"] for each in found):
        row[family] = share([x for x in found if x["family"] == family])
    row["all"] = share(found)
    for each in found:
        if each["escaped"]:
            print(f"{title}: {each['name']}: {each['escaped']}", file=sys.stderr)
    return row


def share(found: list[Row]) -> str:
    return f"{sum(not x['escaped'] for x in found)} of {len(found)}"


# Milliseconds a run.


def literal() -> Verdict:
    return run_tests(PROGRAM, ["assert f(2) == 3", "assert f(3) == 4"])


def examined() -> Verdict:
    return run_tests(PROGRAM, ["assert abs(f(2) - 3) < 1e-6"])


def script() -> Verdict:
    return run_cases("print(int(input()) + 1)", [Case("2", "3")])


KINDS = {"asserts": literal, "test of its own": examined, "script": script}


def speed(name: str, run: Callable[[], Verdict], runs: int) -> Row:
    """One after the other, then as many at once as there are processors."""
    assert run().passed
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: run(), range(runs)))
        together = (time.perf_counter() - start) / runs
    row: Row = {"kind": name, "level": strongest().name, "runs": runs}
    times = {"median ms": statistics.median(seconds), "min": min(seconds)}
    times |= {"max": max(seconds), f"ms each, {threads} threads": together}
    return row | {title: round(1000 * value, 1) for title, value in times.items()}


# Reference solutions.


def read_problems(data: Path) -> dict[str, list[Problem]]:
    """All of HumanEval, and of MBPP what is in the folder's splits."""
    splits = [x for x in MBPP if (data / "mbpp" / f"{x}.jsonl").is_file()]
    mbpp = str(data / "mbpp")
    return {
        "HumanEval": load_problems("humaneval", str(data / "humaneval")),
        "MBPP": [x for name in splits for x in load_problems("mbpp", mbpp, split=name)],
    }


def references(name: str, problems: list[Problem]) -> Row:
    """One row; what does not pass is told beside the table."""
    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(lambda x: judge(x, reference(x)), problems))
    seconds = time.perf_counter() - start
    for problem, verdict in zip(problems, verdicts, strict=True):
        if not verdict.passed:
            print(f"{name} {problem.id}: {verdict}", file=sys.stderr)
    examiner = sum(any(taken_apart(x) is None for x in p.tests) for p in problems)
    return {
        "problems of": name,
        "number": len(problems),
        "passed": sum(verdict.passed for verdict in verdicts),
        "with an examiner": examiner,
        "run again": sum(verdict.retried for verdict in verdicts),
        "s": round(seconds, 1),
        "ms each": round(1000 * seconds / len(problems), 1),
    }


if __name__ == "__main__":
    main()
