"""The benchmark of the sandbox runs to its tables; times are not looked at."""

import json
import sys

import pytest

from benchmarks import sandbox
from shared.evaluation.walls.levels import SandboxError
from shared.evaluation.walls.probe import strongest

try:
    strongest()
except SandboxError as error:
    pytest.skip(f"needs a sandbox: {error}", allow_module_level=True)


def table(monkeypatch, tmp_path, *options):
    path = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["sandbox", *options, "--json", str(path)])
    sandbox.main()
    return json.loads(path.read_text())


def test_speed(monkeypatch, tmp_path):
    rows = table(monkeypatch, tmp_path, "speed", "--runs", "1")
    assert [row["kind"] for row in rows] == list(sandbox.KINDS)
    assert all(row["median ms"] > 0 for row in rows)


def test_references(monkeypatch, tmp_path, capsys):
    problem = {"task_id": "a", "entry_point": "f", "prompt": "def f(x):\n    '''.'''\n"}
    problem |= {"canonical_solution": "    return x + 1\n"}
    problem |= {"test": "def check(candidate):\n    assert candidate(2) == 3\n"}
    simple = {"task_id": 17, "code": "def f(x): return 0", "test_setup_code": ""}
    simple |= {"text": "One more.", "test_list": ["assert f(2) == 3"]}
    for name, row in (("humaneval", problem), ("mbpp", simple)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.jsonl").write_text(json.dumps(row) + "\n")
    rows = table(monkeypatch, tmp_path, "references", "--data", str(tmp_path))
    assert [(row["number"], row["passed"]) for row in rows] == [(1, 1), (1, 0)]
    assert "MBPP 17: " in capsys.readouterr().err


def test_hostile(tmp_path):
    """One level, in a process of its own, as each row is."""
    row = sandbox.contained("top", strongest().walls, ["open", "TCP", "fork"])
    counts = {"files": "1 of 1", "network": "1 of 1", "processes": "1 of 1"}
    assert row == {"level": "top", **counts, "all": "3 of 3"}
    with pytest.raises(SystemExit, match="nothing: "):
        sandbox.contained("nothing", ("no such wall",), ["no such program"])
