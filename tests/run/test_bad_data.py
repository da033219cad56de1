"""Bad data: the file and the line are named; what is too long is cut and counted."""

import json
from pathlib import Path

import pytest

from tests import refused
from tests.refused import MBPP, SMALL, error_line, mbpp_rows, write_rows

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


@pytest.mark.parametrize("split", ["train", "validation", "reference"])
def test_a_split_whose_prompts_leave_no_target_is_an_error(capsys, split):
    """Its loss would be 0 in every step, or its figures those of nothing."""
    short = {"prompt": "a", "completion": "b"}
    for name in ("train", "validation", "reference"):
        row = short | ({"prompt": "long " * 20} if name == split else {})
        write_rows(Path(f"data/{name}.jsonl"), *[row] * 3)
    line = error_line(capsys, "--data", "data", "--data.loss-on", "completion",
                      "--algo", "rho1-weighted")  # fmt: skip
    assert f"split '{split}' must have targets" in line
    assert "data.max_length = 32" in line


def test_documents_without_a_target_are_counted_and_told(capsys):
    rows = [{"prompt": "a", "completion": "b"}] * 3
    rows.insert(1, {"prompt": "long " * 20, "completion": "b"})
    for name in ("train", "validation"):
        write_rows(Path(f"data/{name}.jsonl"), *rows)
    argv = [*SMALL, "--data", "data", "--data.loss-on", "completion", "--heads", "1"]
    says = "train: 1 of 4 documents have no target"
    assert refused.torch_main([*argv, "--dry-run"]) == 0
    assert says in capsys.readouterr().out
    argv += ["--train.max-steps", "1", "--run-name", "some"]
    assert refused.torch_main(argv) == 0
    told = Path("runs/some/train.log").read_text()
    assert says in told and "data.max_length = 32" in told
    summary = json.loads(Path("runs/some/summary.json").read_text())
    # Validation keeps the odd rows: the second and the fourth.
    assert summary["documents_without_target"] == {"train": 1, "validation": 1}


def test_long_samples_are_cut_counted_and_reported(capsys):
    rows = mbpp_rows(4)
    longer = MBPP | {"text": "Add numbers. " * 9}
    long = [longer | {"task_id": n} for n in (10, 1011, 1013)]
    write_rows(Path("data/train.jsonl"), *rows, *long)
    write_rows(Path("data/validation.jsonl"), *rows, long[1])
    argv = ("--data", "data", "--data.max-length", "64", "--train.max-steps", "1")
    argv = [*SMALL, *argv, "--heads", "1", "--run-name", "cut"]
    assert refused.torch_main(argv) == 0
    out, err = capsys.readouterr()
    says = "train: 3 of 7 documents are longer than data.max_length = 64"
    assert says in out and says in Path("runs/cut/train.log").read_text()
    summary = json.loads(Path("runs/cut/summary.json").read_text())
    # Validation keeps the odd ids, whatever the algorithm: 1, 3 and the long 1011.
    assert summary["documents"] == {"train": 7, "validation": 3}
    assert summary["documents_cut"] == {"train": 3, "validation": 1}
    assert err == ""
