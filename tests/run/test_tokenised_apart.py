"""Runs from when prompt and completion were tokenised apart."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from shared.config.fields import DataConfig
from shared.data.documents import load_examples
from shared.data.tokenizer import load_tokenizer
from tests import hf_models, small_tokenizers, states
from tests.refused import everything
from tests.started import SHORT
from wmtp_torch_mps import train

SPLITS = ("train", "validation")
SAYS = (
    "error: a resumed run must have the documents it started with, got others: it was "
    "begun when prompt and completion were tokenised apart, so finish it with the "
    "version that began it (its export still loads as --model)\n"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of a model whose tokenizer invents spaces, as this version makes it."""
    base = tmp_path_factory.mktemp("apart")
    shape = {"vocab_size": 900, "max_position_embeddings": 64}
    hf_models.save(hf_models.make("llama-tied-grouped", **shape), base / "base")
    small_tokenizers.saved("metaspace with BOS", base / "base")
    place = ["--output-dir", str(base), "--run-name", "run", "--device", "cpu"]
    steps = ["--train.max-steps", "2", "--model", str(base / "base")]
    assert train.main([*SHORT, *place, *steps]) == 0
    return base / "run"


def digest_apart(name):
    """As the code before computed it, from the words of that time."""
    examples = load_examples(DataConfig(max_examples=12))[name]
    words = small_tokenizers.KINDS["metaspace with BOS"]()
    digest = hashlib.sha256()
    for row in examples:
        parts = [
            words.encode(row[part], add_special_tokens=False, split_special_tokens=True)
            for part in ("prompt", "completion")
        ]
        tokens = np.array([*parts[0], *parts[1], words.eos_token_id][:32], np.int32)
        target = np.arange(len(tokens)) >= 1
        for part in (row["id"].encode(), tokens.tobytes(), target.tobytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def begun_apart(path: Path) -> Path:
    """The run as it would lie there, had the version before begun it."""
    file = path / "inputs.json"
    inputs = json.loads(file.read_text()) | {
        name: digest_apart(name) for name in SPLITS
    }
    file.write_text(json.dumps(inputs))
    newest = path / "checkpoints" / "2"
    states.change(newest, inputs=states.header_of(newest)["inputs"] | inputs)
    return path


@pytest.mark.parametrize("what", ["run", "run/checkpoints/2", "export"])
def test_it_is_not_gone_on_with_and_says_why(finished, what, tmp_path, capsys):
    path = begun_apart(shutil.copytree(finished, tmp_path / "run"))
    shutil.copytree(path / "checkpoints" / "2", tmp_path / "export")
    before = everything(tmp_path)
    place = ["--output-dir", str(tmp_path / "new")] if what == "export" else []
    for dry in ([], ["--dry-run"]):
        capsys.readouterr()
        assert train.main(["--resume", str(tmp_path / what), *place, *dry]) == 2
        assert capsys.readouterr().err == SAYS
    shutil.rmtree(tmp_path / "new", ignore_errors=True)  # an output folder, empty
    assert everything(tmp_path) == before


def test_its_export_still_loads(finished, tmp_path):
    path = begun_apart(shutil.copytree(finished, tmp_path / "run"))
    place = ["--output-dir", str(tmp_path / "new"), "--device", "cpu"]
    options = ["--model", str(path / "model"), "--train.max-steps", "1"]
    assert train.main([*SHORT, *place, *options]) == 0
    tokenizer = load_tokenizer(str(path / "model"))
    assert tokenizer.encode("x")[0] == tokenizer.implementation.bos_token_id


def test_other_data_is_still_called_that(finished, tmp_path, capsys):
    path = shutil.copytree(finished, tmp_path / "run")
    file = path / "inputs.json"
    inputs = json.loads(file.read_text()) | {"train": "0" * 64}
    file.write_text(json.dumps(inputs))
    capsys.readouterr()
    assert train.main(["--resume", str(path)]) == 2
    err = capsys.readouterr().err
    assert err == (
        f"error: a resumed run must have the inputs it started with ({file}), got "
        "another train\n"
    )
