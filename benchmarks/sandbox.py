"""The sandbox: hostile programs contained, milliseconds a run, reference solutions.

    python -m benchmarks.sandbox hostile
    python -m benchmarks.sandbox speed --runs 50
    python -m benchmarks.sandbox references --data FOLDER_WITH_MBPP_AND_HUMANEVAL
    python -m benchmarks.sandbox verdicts --data ... --repeat 10 --load 4

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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.runs import options_parser, print_table
from shared.evaluation.sandbox import run_cases, run_tests
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import Problem, judge, reference
from shared.evaluation.verdicts import Verdict
from shared.evaluation.walls.assertions import taken_apart
from shared.evaluation.walls.levels import LADDER
from shared.evaluation.walls.probe import strongest
from shared.evaluation.walls.scripts import Case

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
PROGRAM = "def f(x):\n    return x + 1\n"
PLAIN = "plain user"
MBPP = ("test", "validation", "train")  # splits of a folder
TABLES = ("hostile", "speed", "references", "verdicts")
ALONE = ("namespaces", "landlock", "seccomp")  # each wall without the others


def options() -> argparse.Namespace:
    parser = options_parser(__doc__ or "")
    parser.add_argument("table", choices=list(TABLES))
    parser.add_argument("--runs", type=int, default=50, help="timed of each kind")
    parser.add_argument("--data", type=Path, help="folder of mbpp/ and humaneval/")
    parser.add_argument("--repeat", type=int, default=10, help="of each verdict")
    parser.add_argument("--load", type=int, default=0, help="busy processes beside it")
    parser.add_argument("--limit", type=int, default=None, help="of the problems")
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
    elif asked.table == "references":
        rows = [references(*pair) for pair in read_problems(asked.data).items()]
    else:
        with busy(asked.load):
            rows = [
                repeated(name, problems[: asked.limit], asked.repeat, asked.load)
                for name, problems in read_problems(asked.data).items()
            ]
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


# The same verdict every time.


@contextmanager
def busy(number: int) -> Iterator[None]:
    """So many processes that only compute."""
    command = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def repeated(name: str, problems: list[Problem], repeat: int, load: int) -> Row:
    """Every reference on its own problem and on the next one, again and again."""
    turned = [*problems[1:], *problems[:1]]
    pairs = [(x, reference(x)) for x in problems]
    pairs += [(x, reference(y)) for x, y in zip(problems, turned, strict=True)]
    rounds, again = [], 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in range(repeat):
            found = list(pool.map(lambda pair: judge(*pair), pairs))
            rounds.append([[(x.outcome, x.error) for x in v.results] for v in found])
            again += sum(verdict.retried for verdict in found)
    other = [
        i for i, x in enumerate(zip(*rounds, strict=True)) if any(y != x[0] for y in x)
    ]
    for i in other:
        told = {json.dumps(verdicts[i]) for verdicts in rounds}
        print(f"{name} {pairs[i][0].id}: {' or '.join(told)}", file=sys.stderr)
    return {
        "problems of": name,
        "programs": len(pairs),
        "passed": sum(all(o == "passed" for o, _ in x) for x in rounds[0]),
        "rounds": repeat,
        "busy processes": load,
        "run again": again,
        "not always the same": len(other),
    }


if __name__ == "__main__":
    main()
