"""Verdicts: what passes, what does not, and that they do not depend on the machine."""

import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.evaluation import sandbox
from shared.evaluation.sandbox import run_cases, run_tests
from shared.evaluation.verdicts import Limits, Result
from shared.evaluation.walls import child, probe
from shared.evaluation.walls.levels import LADDER, UNSAFE, Level, SandboxError
from shared.evaluation.walls.probe import level_for, strongest, weakness
from shared.evaluation.walls.scripts import Case
from shared.evaluation.walls.session import Run

try:
    strongest()
except SandboxError as error:
    pytest.skip(f"needs a sandbox: {error}", allow_module_level=True)

NEXT = "def f(x):\n    return x + 1\n"
QUICK = Limits(cpu_seconds=0.5, wall_seconds=2)


def outcomes(program, *tests, **options):
    verdict = run_tests(program, tests, QUICK, **options)
    return [result.outcome for result in verdict.results]


def test_a_right_program_passes():
    verdict = run_tests(NEXT, ["assert f(2) == 3", "assert 0 == f(-1)"])
    assert verdict.passed and verdict.level == strongest().name
    assert [x.outcome for x in verdict.results] == ["passed", "passed"]
    assert 0 < verdict.cpu_seconds < 1 and 0 < verdict.seconds and not verdict.retried


@pytest.mark.parametrize(
    "program, outcome, error",
    [
        ("def f(x): return 0", "wrong", ""),
        ("def f(x): return 1 / 0", "error", "ZeroDivisionError: division by zero"),
        ("def f(x):", "error", "IndentationError"),
        ("", "error", "NameError"),
        ("def f(x): return [0] * 10**10", "out of memory", "MemoryError"),
        ("def f(x): return f", "wrong", "not plain data: function"),
        ("import os\ndef f(x): os._exit(3)", "crashed", "exit status 3"),
        ("import ctypes\ndef f(x): ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("def f(x): return 'x' * 2**21", "too much output", ""),
        ("raise ValueError('\\x1b[2J\\n\\ud800')", "error", "ValueError: ?[2J??"),
    ],
)
def test_what_is_wrong_is_told(program, outcome, error):
    verdict = run_tests(program, ["assert f(2) == 3"], QUICK)
    assert not verdict.passed
    assert verdict.results[0].outcome == outcome
    assert verdict.results[0].error.startswith(error)


def test_tests_after_an_error_run_and_after_the_end_do_not():
    program = NEXT + "import os\ndef g(x):\n    os._exit(1)\n"
    tests = ["assert f(1) == 0", "assert f(1) == 2", "assert g(1)", "assert f(1) == 2"]
    assert outcomes(program, *tests) == ["wrong", "passed", "crashed", "not run"]


def test_state_is_kept_from_test_to_test_as_in_one_interpreter():
    program = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)\n"
    assert outcomes(program, "assert f(0) == 1", "assert f(0) == 2") == ["passed"] * 2
    assert outcomes(program, "assert f(0) == 1") == ["passed"]  # a new process


def test_setup_runs_after_the_program():
    program = "class Node:\n    def __init__(self, x): self.x = x\ndef f(n): return n.x"
    setup = "root = Node(7)\nimport math\n"
    tests = ["assert f(root) == 7", "assert math.isclose(f(root), 7.0)"]
    assert outcomes(program, *tests, setup=setup) == ["passed"] * 2


def test_order_of_sets_is_the_same_every_time():
    program = "print(*{*'abcdefghij'}, hash('a'))"
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run_cases(program, [Case("", told.stdout)] * 3).passed


def test_ten_runs_and_runs_under_load_agree():
    """Four at a time on few cores, against a limit of the processor's time."""
    program = NEXT + "def g(x):\n    return sum(i % 7 for i in range(2_000_000)) > 0\n"
    tests = ["assert f(2) == 3", "assert g(1)", "assert f(1) == 1", "assert f(2)(3)"]
    limits = Limits(cpu_seconds=2, wall_seconds=10)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: run_tests(program, tests, limits), range(10)))
    assert {verdict.results for verdict in found} == {found[0].results}
    kinds = [result.outcome for result in found[0].results]
    assert kinds == ["passed", "passed", "wrong", "error"]


def test_a_time_out_is_tried_again_alone():
    limits = Limits(wall_seconds=0.4)
    verdict = run_tests("import time\ndef f(x): time.sleep(9)", ["assert f(1)"], limits)
    assert verdict.timed_out and verdict.retried
    assert 0.8 <= verdict.seconds < 2  # twice as long, the second time


def settled(*runs):
    left = list(runs)
    limits = Limits(cpu_seconds=1, wall_seconds=1)
    found = sandbox._settled(lambda cpu, wall: left.pop(0), limits)
    return found.run, found.retried


def made(outcome, cpu_seconds, stopped=None):
    return Run((Result(outcome=outcome),), cpu_seconds, 1.0, stopped)


def test_which_runs_are_tried_again():
    good, late = made("passed", 0.5), made("timed out", 0.1, "timed out")
    assert settled(good) == (good, False)
    assert settled(late, good) == (good, True)
    # Over its budget beside others: what it needs alone counts.
    assert settled(made("passed", 1.5), good) == (good, True)
    run, _ = settled(made("passed", 1.5), made("passed", 1.2))
    assert run.results == (Result(outcome="timed out"),)
    # Over twice its budget: that is no matter of the others.
    over = made("timed out", 2.0, "timed out")
    assert settled(over) == (over, False)


def test_nothing_runs_beside_a_run_that_is_alone():
    running, most = [], []

    def enter(turn):
        with turn():
            running.append(turn)
            most.append((turn == sandbox.TURNS.alone, len(running)))
            time.sleep(0.002)
            running.remove(turn)

    turns = [sandbox.TURNS.together, sandbox.TURNS.alone] * 12
    threads = [threading.Thread(target=enter, args=(turn,)) for turn in turns]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(count == 1 for alone, count in most if alone) and len(most) == 24


def test_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "open('left', 'w').write('x')\nimport os\nos.mkdir('closed', 0)\n" + NEXT
    for level in (strongest(), LADDER[-1]):
        if not weakness(level):
            assert run_tests(program, ["assert f(2) == 3"], level=level).passed
    assert not list(tmp_path.iterdir())


def test_what_a_test_may_be():
    with pytest.raises(ValueError, match="at least one test, got none"):
        run_tests(NEXT, [])
    with pytest.raises(ValueError, match="definitions must be Python"):
        run_tests(NEXT, ["assert f(2) == 3"], definitions="def f(")
    with pytest.raises(ValueError, match="cpu_seconds must be > 0 and finite, got 0"):
        Limits(cpu_seconds=0)


# The ladder.


def test_without_walls_nothing_runs_but_by_hand(monkeypatch):
    monkeypatch.setattr(probe, "FOUND", {})
    monkeypatch.setattr(probe, "weakness", lambda level: "not here")
    with pytest.raises(SandboxError, match=r"got none here \(.*\); --unsafe-execution"):
        run_tests(NEXT, ["assert f(2) == 3"])
    verdict = run_tests(NEXT, ["assert f(2) == 3"], unsafe=True)
    assert verdict.passed and verdict.level == "unsafe"
    assert level_for(unsafe=True) == UNSAFE


@pytest.mark.skipif(sys.platform != "linux", reason="walls of Linux")
def test_the_probe_finds_what_does_not_hold():
    assert weakness(UNSAFE) == "a file can be written"
    assert weakness(Level("filter", ("seccomp",))) == "a file can be written"
    assert weakness(Level("rooms", ("namespaces",))) == "a process can be started"
    assert weakness(Level("files", ("landlock",))) == "a process can be started"


@pytest.mark.skipif(sys.platform != "linux", reason="walls of Linux")
@pytest.mark.parametrize("level", LADDER, ids=lambda level: level.name)
def test_every_rung_runs_a_program(level):
    if why := weakness(level):
        pytest.skip(f"this rung does not hold here: {why}")
    program = NEXT + "import threading, tempfile, sqlite3, decimal, hashlib, zoneinfo\n"
    program += "t = threading.Thread(target=print)\nt.start()\nt.join()\n"
    program += "tempfile.TemporaryFile().write(b'x')\n"
    verdict = run_tests(program, ["assert f(2) == 3"], level=level)
    assert verdict.passed and verdict.level == level.name, verdict


def test_a_wall_that_cannot_be_raised_stops_the_run(monkeypatch):
    monkeypatch.setattr(child, "LAUNCH", "/nowhere/launch.py")
    with pytest.raises(SandboxError, match=r"launch\.py"):
        run_tests(NEXT, ["assert f(2) == 3"])


# Scripts.


def test_scripts_read_and_write():
    program = "n = int(input())\nprint(n * 2)\n"
    good = [Case("3\n", "6\n"), Case("4", " 8.000001 ")]
    assert run_cases(program, good).passed
    verdict = run_cases(program, [*good, Case("x", "0"), Case("1", "2")], QUICK)
    kinds = [result.outcome for result in verdict.results]
    assert kinds == ["passed", "passed", "error", "not run"]
    assert verdict.results[2].error == "ValueError"


@pytest.mark.parametrize(
    "program, outcome",
    [
        (
            "import threading\nthreading.Thread(target=lambda: print(1)).start()",
            "passed",
        ),
        ("import atexit\natexit.register(print, 1)", "passed"),
        ("import sys\nsys.stderr.write('x' * 2**20)\nprint(1)", "passed"),
        ("if __name__ == '__main__': print(1)\nraise SystemExit", "passed"),
        ("import sys\nprint(1)\nsys.exit(2)", "error"),
        ("print(2)", "wrong"),
        ("import os\nos.abort()", "crashed"),
        ("while True: print('x' * 1000)", "too much output"),
        ("x = [0] * 10**10", "out of memory"),
    ],
)
def test_how_scripts_end(program, outcome):
    verdict = run_cases(program, [Case("", "1")], QUICK)
    assert verdict.results[0].outcome == outcome


def test_a_script_reads_more_than_a_pipe_holds():
    program = "import sys\nprint(len(sys.stdin.read()))"
    assert run_cases(program, [Case("x" * 10**6, "1000000")]).passed
    assert run_cases("print(1)", [Case("x" * 10**6, "1")]).passed  # reads nothing
