"""The packaged fingerprints: how they are built, what they find in real problems."""

import base64
import json
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from shared.config.fields import DataConfig
from shared.data import contamination
from shared.data.contamination import check, load_fingerprints
from shared.data.documents import load_examples
from shared.data.examples import read_examples
from tests import leaks
from tests.leaks import PACKAGED, kinds, spaced, write
from tests.script import build_fingerprints

benchmark = leaks.benchmark
REAL = Path(__file__).parents[3] / "shared" / "data"


def test_what_is_built_is_what_is_read(tmp_path, benchmark, capsys):
    file = tmp_path / "built.json"
    arguments = [f"mbpp_test={benchmark}", f"humaneval={tmp_path}"]
    assert build_fingerprints.main([*arguments, "--to", str(file)]) == 0
    assert "bytes" in capsys.readouterr().out
    first = file.read_bytes()
    assert build_fingerprints.main([*arguments, "--to", str(file)]) == 0
    assert file.read_bytes() == first
    built = load_fingerprints(file)
    sizes = {kind: len(prints) for kind, prints in built["mbpp_test"].items()}
    assert sizes == {"exact": 2, "normalised": 2, "ngram13": 31}
    assert built["humaneval"] == built["mbpp_test"]
    assert b"weigh" not in first and b"bird" not in first
    assert sorted(p.name for p in tmp_path.iterdir()) == [file.name, "test.jsonl"]


def test_build_refuses_in_one_line(tmp_path, benchmark, capsys):
    file = tmp_path / "nowhere" / "built.json"
    for entry, message in (
        (f"other={benchmark}", "benchmarks must be among mbpp_test, humaneval"),
        ("humaneval=nowhere.jsonl", "as a readable file"),
        (f"humaneval={benchmark}", "must be writable, got No such file"),
    ):
        assert build_fingerprints.main([entry, "--to", str(file)]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_the_packaged_file_is_sorted_hashes_and_says_of_what():
    content = files("shared.data").joinpath(contamination.FINGERPRINTS).read_bytes()
    found = json.loads(content)
    about = found["about"]
    arrays = {
        name: np.frombuffer(base64.b64decode(text), "<u8")
        for name, text in found["fingerprints"].items()
    }
    names = {f"{name}.{kind}" for name in PACKAGED for kind in contamination.KINDS}
    assert arrays.keys() == names
    for x in arrays.values():
        assert (x[1:] > x[:-1]).all()
    assert {name: about[name]["problems"] for name in about} == {
        "mbpp_test": 500,
        "humaneval": 164,
    }
    assert "CC-BY-4.0" in about["mbpp_test"]["source"]
    assert "MIT" in about["humaneval"]["source"]
    for name, x in arrays.items():
        benchmark, kind = name.split(".")
        assert about[benchmark][kind] == len(x)
    assert len(content) < 600_000


def test_the_minis_share_nothing_with_the_benchmarks():
    splits = dict(load_examples(DataConfig()))
    for name in ("humaneval", "contest"):
        file = files("shared.data").joinpath("minis", name, "test_mini.jsonl")
        splits[name] = read_examples(file, "auto").rows
    report = check(splits)
    assert report.num_documents > 200
    assert {name: kinds(report, name) for name in PACKAGED} == {
        name: set() for name in PACKAGED
    }


# With the real benchmarks beside the checkout


def real(name):
    file = REAL / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"the real {name}.jsonl is not beside the checkout")
    return read_examples(file, "auto").rows


REAL_FILES = pytest.mark.parametrize(
    "name, file", [("mbpp_test", "mbpp/test"), ("humaneval", "humaneval/test")]
)


@REAL_FILES
def test_every_real_problem_is_found(tmp_path, name, file):
    number = len(real(file))
    lines = (REAL / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()

    def share(change):
        """How many are still found when all their texts are changed."""
        rows = [json.loads(line) for line in lines]
        for i, row in enumerate(rows):
            row["task_id"] = f"own/{i}"
            for key in {"text", "code", "prompt", "canonical_solution"} & row.keys():
                row[key] = change(row[key])
        copy = Path(write(tmp_path / "copy.jsonl", *rows))
        report = check({"train": read_examples(copy, "auto").rows})
        return {kind: len(ids) for kind, ids in report.found[name].items()}

    every = dict.fromkeys(contamination.KINDS, number)
    assert share(str) == every
    assert share(spaced) == every | {"exact": 0}
    # Only a problem whose statement and solution are both shorter than 13 words hides.
    within = share(lambda text: f"# Copied:\n{text}\n# end")
    assert within["exact"] == within["normalised"] == 0
    assert within["ngram13"] >= 0.99 * number
    half = share(lambda text: text[: len(text) // 2])
    assert half["exact"] == half["normalised"] == 0
    # Half of a short statement and half of a short solution often have no 13 words.
    assert half["ngram13"] > 0.7 * number


@REAL_FILES
def test_the_packaged_file_is_what_the_real_problems_give(tmp_path, name, file):
    real(file)
    built = tmp_path / "built.json"
    build_fingerprints.build({name: str(REAL / f"{file}.jsonl")}, built)
    assert load_fingerprints(built)[name] == load_fingerprints()[name]


def test_the_real_training_problems_of_mbpp():
    splits = {"train": real("mbpp/train")}
    start = time.perf_counter()
    report = check(splits)
    assert time.perf_counter() - start < 5  # 0.2 s where nothing else runs
    counts = {
        name: {kind: len(ids) for kind, ids in found.items()}
        for name, found in report.found.items()
    }
    # Solutions of MBPP come in variants of one another, and three statements twice.
    assert counts["mbpp_test"]["exact"] == counts["mbpp_test"]["normalised"] == 3
    assert 90 <= counts["mbpp_test"]["ngram13"] <= 120
    assert counts["humaneval"]["exact"] == 0
    assert 10 <= counts["humaneval"]["ngram13"] <= 30
