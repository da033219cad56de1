"""Data sets in the parquet layouts that repositories of the hub have."""

import os
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet

import shared
from shared.config.fields import DataConfig
from shared.data.documents import load_examples

TEXT, TEXTS, INT = pa.string(), pa.list_(pa.string()), pa.int32()
TESTS = pa.struct([("input", TEXTS), ("output", TEXTS)])
LANGUAGES = pa.list_(pa.int64())
SOLUTIONS = pa.struct([("language", LANGUAGES), ("solution", TEXTS)])
# Columns as google-research-datasets/mbpp, openai/openai_humaneval and
# deepmind/code_contests have them (the last also has more).
SCHEMAS = {
    "mbpp": {
        "task_id": INT,
        "text": TEXT,
        "code": TEXT,
        "test_list": TEXTS,
        "test_setup_code": TEXT,
        "challenge_test_list": TEXTS,
    },
    "humaneval": {
        "task_id": TEXT,
        "prompt": TEXT,
        "canonical_solution": TEXT,
        "test": TEXT,
        "entry_point": TEXT,
    },
    "code_contests": {
        "name": TEXT,
        "description": TEXT,
        "public_tests": TESTS,
        "private_tests": TESTS,
        "generated_tests": TESTS,
        "source": pa.int64(),
        "difficulty": pa.int64(),
        "solutions": SOLUTIONS,
        "incorrect_solutions": SOLUTIONS,
    },
}
EMPTY_TESTS = {"input": [], "output": []}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield tmp_path / "cache"
    datasets.enable_progress_bars()


def mbpp(ids):
    return [
        {
            "task_id": i,
            "text": f"Write a function {i}.",
            "code": f"def f():\r\n    return {i}",
            "test_list": [f"assert f() == {i}", "assert f"],
            "test_setup_code": "",
            "challenge_test_list": [],
        }
        for i in ids
    ]


def contests(languages):
    return [
        {
            "name": f"problem {i}",
            "description": f"Print {i}.",
            "public_tests": EMPTY_TESTS,
            "private_tests": {"input": ["1\n"], "output": ["1\n"]},
            "generated_tests": EMPTY_TESTS,
            "source": 2,
            "difficulty": 8,
            "solutions": {
                "language": languages_of,
                "solution": [f"in {language}" for language in languages_of],
            },
            "incorrect_solutions": {"language": [3], "solution": ["wrong"]},
        }
        for i, languages_of in enumerate(languages)
    ]


def write(folder, kind, **splits):
    """Parquet files as a repository of the hub holds them."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(list(SCHEMAS[kind].items()))
    for split, rows in splits.items():
        table = pa.Table.from_pylist(rows, schema)
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def mbpp_folder(folder):
    write(
        folder / "full",
        "mbpp",
        train=mbpp(range(601, 607)),
        validation=mbpp(range(511, 517)),
        test=mbpp(range(11, 14)),
        prompt=mbpp([1, 2]),
    )
    return DataConfig(source=str(folder))


def ids(examples):
    return {name: [row["id"] for row in split] for name, split in examples.items()}


def refused(cfg):
    with pytest.raises(ValueError) as caught:
        load_examples(cfg)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    return text


def run_alone(code, environment, *arguments):
    inherited = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=inherited | environment,
        cwd=Path(shared.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
