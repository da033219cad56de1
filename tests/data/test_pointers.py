"""Git LFS leaves a pointer where a file was not fetched: every reader says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.config.fields import DataConfig
from shared.data.contamination import read_problems
from shared.data.documents import load_examples
from shared.data.tokenizer import load_tokenizer
from shared.files import refuse_pointer
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.safetensors import open_file, open_model
from tests import small_tokenizers

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n"
)


def data(folder: Path) -> None:
    load_examples(DataConfig(source=str(folder)))


READERS: dict[str, Callable[[Path], object]] = {
    "train.jsonl": data,
    "full/train-00000-of-00001.parquet": data,
    "test.jsonl": lambda folder: read_problems(str(folder)),
    "config.json": read_hf_config,
    "model.safetensors": open_model,
    "model.safetensors.index.json": open_model,
    "mtp_heads.safetensors": lambda folder: open_file(folder / "mtp_heads.safetensors"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pointer_is_called_one(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(POINTER)
    with pytest.raises(ValueError) as caught:
        READERS[name](tmp_path)
    assert str(caught.value) == (
        f"{file} must be the file itself, got the Git LFS pointer to it (git lfs pull "
        "fetches it)"
    )


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_pointer_among_the_files_of_a_tokenizer(tmp_path, name):
    folder = small_tokenizers.saved("byte-level BPE", tmp_path)
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(
        ValueError, match=f"{name} must be the file itself, got the Git"
    ):
        load_tokenizer(folder)


def test_another_shard_of_parquet(tmp_path):
    from datasets import Dataset

    rows = [{"prompt": str(i), "completion": "x"} for i in range(4)]
    for split in ("train", "validation"):
        of = Dataset.from_list(rows)
        of.to_parquet(tmp_path / f"{split}-00000-of-00002.parquet")
    (tmp_path / "train-00001-of-00002.parquet").write_text(POINTER)
    with pytest.raises(
        ValueError, match=r"00001-of-00002.parquet must be the file itse"
    ):
        data(tmp_path)


def test_what_only_speaks_of_pointers_is_no_pointer(tmp_path):
    row = {"prompt": POINTER, "completion": "x"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    refuse_pointer(tmp_path / "a.jsonl")
    refuse_pointer(tmp_path / "missing")
    refuse_pointer(tmp_path)
