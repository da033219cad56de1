"""Command lines that are refused, by both trainers in the same words."""

import json
from pathlib import Path

import pytest

from wmtp_jax.train import main
from wmtp_torch_mps.train import main as torch_main

SMALL = (
    *("--model", "smoke", "--model.num-layers", "1", "--model.width", "16"),
    *("--heads", "2", "--data.max-length", "32", "--tracking", "jsonl"),
)
MBPP = {"task_id": 1, "text": "Add.", "code": "def f(): pass", "test_list": ["f()"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, so that a file left anywhere in it is seen."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    """Every file in a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def error_line(capsys, *argv: str, mains=(main, torch_main)) -> str:
    """The one line of a refused command line, which must leave everything as it was."""
    before, lines = everything(Path.cwd()), set()
    for trainer in mains:
        capsys.readouterr()
        assert trainer([*SMALL, *argv]) == 2
        _, err = capsys.readouterr()
        assert everything(Path.cwd()) == before, "something was left behind"
        assert err.startswith("error: ") and err.endswith("\n")
        assert err.count("\n") == 1
        lines.add(err)
    (line,) = lines
    return line


def write_rows(file: Path, *rows: object) -> None:
    """JSON lines; a text is written as it is, also where it is no JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("".join(line + "\n" for line in lines))


def mbpp_rows(count: int, text: str = "Add.") -> list[dict]:
    return [MBPP | {"task_id": number, "text": text} for number in range(count)]
