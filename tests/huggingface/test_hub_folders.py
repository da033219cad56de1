"""Folders with the layout of a repository of the hub: its splits, rows and damages."""

import json
import logging
from dataclasses import replace

import datasets
import pytest

from shared.config.fields import DataConfig
from shared.data.documents import load_examples
from tests import repositories
from tests.repositories import (
    SCHEMAS,
    contests,
    ids,
    mbpp,
    mbpp_folder,
    refused,
    run_alone,
    write,
)

cache = repositories.cache


@pytest.mark.parametrize("name", ["mbpp", "data [1] *", "caché"])
def test_a_folder_with_parquet_files(tmp_path, name):
    cfg = mbpp_folder(tmp_path / name)
    examples = load_examples(cfg)
    assert ids(examples) == {
        "train": ["601", "602", "603", "604", "605", "606"],
        "reference": ["512", "514", "516"],
        "validation": ["511", "513", "515"],
        "test": ["11", "12", "13"],
    }
    assert examples["train"][0] == {
        "id": "601",
        "prompt": '"""\nWrite a function 601.\nassert f() == 601\n"""\n',
        "completion": "def f():\n    return 601",
    }


def test_max_examples_of_a_folder_with_parquet_files(tmp_path):
    cfg = replace(mbpp_folder(tmp_path / "mbpp"), max_examples=2)
    assert ids(load_examples(cfg)) == {
        "train": ["601", "602"],
        "reference": ["512", "514"],
        "validation": ["511", "513"],
        "test": ["11", "12"],
    }


def test_files_beside_each_other_and_the_folder_itself(tmp_path):
    cfg = mbpp_folder(tmp_path / "mbpp")
    (tmp_path / "mbpp" / "README.md").write_text("---\nconfigs: []\n---\n")
    second = tmp_path / "mbpp" / "full" / "train-00001-of-00002.parquet"
    write(tmp_path / "more", "mbpp", train=mbpp([607]))
    (tmp_path / "more" / "train-00000-of-00001.parquet").rename(second)
    assert ids(load_examples(cfg))["train"][-2:] == ["606", "607"]
    inner = DataConfig(source=str(tmp_path / "mbpp" / "full"))
    assert ids(load_examples(inner)) == ids(load_examples(cfg))


def test_lines_of_json_come_first(tmp_path):
    cfg = mbpp_folder(tmp_path / "mbpp")
    row = json.dumps({"prompt": "a", "completion": "b"}) + "\n"
    for split in ("train", "validation"):
        (tmp_path / "mbpp" / f"{split}.jsonl").write_text(row)
    with pytest.raises(ValueError, match="got none for 'validation'"):
        load_examples(cfg)


@pytest.mark.parametrize("max_examples", [0, 2])
def test_code_contests(tmp_path, caplog, monkeypatch, max_examples):
    write(
        tmp_path / "data",
        "code_contests",
        train=contests([[3], [2, 1], [2, 3, 3], [], [1, 3]]),
        valid=contests([[3], [3], [4], [3]]),
        test=contests([[3]]),
    )
    cfg = DataConfig(source=str(tmp_path), max_examples=max_examples)
    load_dataset, asked = datasets.load_dataset, {}

    def note(*arguments, **options):
        asked.update(options)
        return load_dataset(*arguments, **options)

    monkeypatch.setattr(datasets, "load_dataset", note)
    with caplog.at_level(logging.WARNING, "wmtp"):
        examples = load_examples(cfg)
    assert asked["columns"] == ["name", "description", "solutions"]
    assert asked["streaming"] == bool(max_examples)
    train = ["problem 0", "problem 2", "problem 4"]
    assert ids(examples) == {
        "train": train[:2] if max_examples else train,
        "reference": ["problem 0", "problem 3"],
        "validation": ["problem 1"],
        "test": ["problem 0"],
    }
    assert {row["completion"] for row in examples["train"]} == {"in 3"}
    left_out = [record.getMessage() for record in caplog.records]
    of_train = "train: {} problems have no solution in Python 3 and are left out"
    assert of_train.format(1 if max_examples else 2) in left_out
    assert len(left_out) == 2


def test_humaneval_is_not_trained_on(tmp_path):
    row = {name: "HumanEval/0" for name in SCHEMAS["humaneval"]}
    write(tmp_path / "openai_humaneval", "humaneval", test=[row])
    text = refused(DataConfig(source=str(tmp_path)))
    assert "must have a split 'train', got test in" in text
    text = refused(DataConfig(source="humaneval"))
    assert "got 'humaneval', which has only a test split and is for evaluation" in text


def test_rows_pass_the_same_checks_as_lines(tmp_path):
    cfg = mbpp_folder(tmp_path)
    rows = mbpp([601, 602])
    rows[1]["test_list"] = []
    write(tmp_path / "full", "mbpp", train=rows)
    where = f"{tmp_path}, split train, row 2: 'test_list' must be a list of at least"
    assert where in refused(cfg)
    write(tmp_path / "full", "mbpp", train=mbpp([601, 602, 601]))
    assert "split train, row 3: ids must be unique, got '601' again" in refused(cfg)
    assert "format humaneval must have the keys" in refused(
        replace(cfg, format="humaneval")
    )
    write(tmp_path / "full", "mbpp", train=mbpp([601, 500]))
    assert "'train' must have no task_id of MBPP's test split" in refused(cfg)


@pytest.mark.parametrize("max_examples", [0, 3])
@pytest.mark.parametrize("keep", [0, 20, -40])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_damaged_files(tmp_path, split, keep, max_examples, caplog):
    caplog.set_level(logging.CRITICAL, "datasets")
    cfg = replace(mbpp_folder(tmp_path), max_examples=max_examples)
    file = tmp_path / "full" / f"{split}-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    text = refused(cfg)
    assert text.startswith("data.source must hold whole parquet files, got ")
    assert text.endswith(f"in {tmp_path}")


def test_reading_a_folder_whole_needs_no_torch(tmp_path):
    mbpp_folder(tmp_path / "mbpp")
    code = (
        "import sys; from shared.config.fields import DataConfig\n"
        "from shared.data.documents import load_examples\n"
        "print(len(load_examples(DataConfig(source=sys.argv[1]))['train']))\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = run_alone(code, {"HF_HOME": str(tmp_path / "home")}, str(tmp_path / "mbpp"))
    assert (done.returncode, done.stdout) == (0, "6\n"), done.stderr
