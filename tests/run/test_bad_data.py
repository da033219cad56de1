"""Bad data: the file and the line are named; what is too long is cut and counted."""

import json
from pathlib import Path

import pytest

from tests import refused
from tests.refused import MBPP, SMALL, error_line, mbpp_rows, write_rows
from wmtp_jax.train import main

folder = refused.folder
pytestmark = pytest.mark.usefixtures("folder")

GOOD = mbpp_rows(3)
# train.jsonl of a folder whose validation.jsonl is fine, and what the line must say.
ROWS = {
    "malformed line": ((*GOOD[:2], '{"task_id": 3,'), ("line 3", "JSON object")),
    "no object": ((GOOD[0], "[1, 2]"), ("line 2", "JSON object", "list")),
    "missing key": (
        (GOOD[0], {"task_id": 1, "text": "", "test_list": [""]}),
        ("line 2", "mbpp", "without code"),
    ),
    "unknown keys": (({"question": ""},), ("line 1", "canonical_solution", "question")),
    "wrong type": ((MBPP | {"code": 3},), ("line 1", "'code'", "string", "got 3")),
    "id twice": ((GOOD[0], GOOD[0]), ("line 2", "unique", "line 1")),
    "empty data set": ((), ("at least one line", "empty")),
}


@pytest.mark.parametrize("case", ROWS)
def test_wrong_data_is_named_with_file_and_line(case, capsys):
    rows, says = ROWS[case]
    write_rows(Path("data/train.jsonl"), *rows)
    write_rows(Path("data/validation.jsonl"), *mbpp_rows(3))
    line = error_line(capsys, "--data", "data")
    for part in (str(Path("data/train.jsonl")), *says):
        assert part in line


def test_data_that_cannot_be_read_is_named(capsys):
    Path("data/train.jsonl").mkdir(parents=True)
    assert "readable file" in error_line(capsys, "--data", "data")
    Path("latin.jsonl").write_bytes(b'{"prompt": "\xe9", "completion": ""}\n')
    line = error_line(capsys, "--data", "latin.jsonl")
    assert "latin.jsonl, line 1" in line and "UTF-8" in line


def test_a_split_without_examples_is_named(capsys):
    write_rows(Path("few.jsonl"), *mbpp_rows(5))
    line = error_line(capsys, "--data", "few.jsonl")
    assert "every split" in line and "'reference'" in line and "few.jsonl" in line


def test_prompts_that_leave_no_target_are_an_error(capsys):
    for name in ("train", "validation"):
        write_rows(Path(f"data/{name}.jsonl"), *mbpp_rows(3, "long " * 20))
    line = error_line(capsys, "--data", "data", "--data.loss-on", "completion")
    assert "must have targets" in line and "data.max_length = 32" in line


def test_long_samples_are_cut_counted_and_reported(capsys):
    rows = mbpp_rows(4)
    longer = MBPP | {"text": "Add numbers. " * 9}
    long = [longer | {"task_id": n} for n in (10, 1011, 1013)]
    write_rows(Path("data/train.jsonl"), *rows, *long)
    write_rows(Path("data/validation.jsonl"), *rows, long[1])
    argv = ("--data", "data", "--data.max-length", "64", "--train.max-steps", "1")
    assert main([*SMALL, *argv, "--heads", "1", "--run-name", "cut"]) == 0
    out, err = capsys.readouterr()
    says = "train: 3 of 7 documents are longer than data.max_length = 64"
    assert says in out and says in Path("runs/cut/train.log").read_text()
    summary = json.loads(Path("runs/cut/summary.json").read_text())
    # Validation keeps the odd ids, whatever the algorithm: 1, 3 and the long 1011.
    assert summary["documents"] == {"train": 7, "validation": 3}
    assert summary["documents_cut"] == {"train": 3, "validation": 1}
    assert err == ""
