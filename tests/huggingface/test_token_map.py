"""The ids that heads draft: counted, written, kept by every export, read strictly."""

import json
from collections import Counter

import numpy as np
import pytest

from shared.config.layers import load_config
from shared.data.documents import load_splits
from shared.data.tokenizer import load_tokenizer
from shared.huggingface.token_map import (
    most_frequent,
    read_token_map,
    write_token_map,
)
from tests import trained
from tests.trained import go_on, run
from tests.trees import refuses
from wmtp_jax import export as jax_export
from wmtp_jax import train as jax_train
from wmtp_torch_mps import export as torch_export
from wmtp_torch_mps import train as torch_train

TRAINERS = {"jax": (jax_train, jax_export), "torch": (torch_train, torch_export)}
SHORT = "--train.max-steps 2 --train.save-every 1 --decoding.draft-vocab 30".split()


def test_most_frequent_first_then_the_smaller_id():
    rng = np.random.default_rng(0)
    documents = [rng.integers(0, 20, n) for n in (5, 40, 13)]
    counts = Counter(int(x) for tokens in documents for x in tokens)
    right = sorted(range(25), key=lambda id_: (-counts[id_], id_))
    for number in (1, 7, 25):
        assert most_frequent(documents, number, 25) == right[:number]


def test_a_list_goes_out_and_in(tmp_path):
    assert read_token_map(tmp_path) is None
    write_token_map(tmp_path, [5, 0, 3])
    assert read_token_map(tmp_path) == [5, 0, 3] == read_token_map(tmp_path, 6)
    refuses(lambda: read_token_map(tmp_path, 5), "from 0 to 4", "got '5'")


@pytest.mark.parametrize(
    "text, part",
    [
        ("[", "must be JSON"),
        ("{}", "got dict"),
        ("[]", "got an empty list"),
        ("[1, 2, 1]", "got 1 twice"),
        ("[1, -1]", "got '-1'"),
        ("[1, true]", "got 'True'"),
        ("[1, 2.0]", "got '2.0'"),
        ('["a"]', "got 'a'"),
        ("[1000000001]", "got '1000000001'"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(tmp_path, text, part):
    (tmp_path / "token_map.json").write_text(text)
    refuses(lambda: read_token_map(tmp_path), str(tmp_path / "token_map.json"), part)


def right_ids(folder):
    """Counted by hand from the documents of the run's training split."""
    cfg = load_config(folder / "config.yaml").data
    split = load_splits(cfg, load_tokenizer("bytes"), splits=("train",))["train"]
    counts = Counter(int(x) for d in split.documents for x in d.tokens)
    return sorted(range(259), key=lambda id_: (-counts[id_], id_))[:30]


@pytest.mark.parametrize(
    "name, other",
    [("jax", "torch"), pytest.param("torch", "jax", marks=pytest.mark.slow)],
)
def test_every_export_of_a_run_has_it(name, other, tmp_path):
    """Of the run, of a checkpoint, the model alone, and of the other trainer's."""
    trainer, export = TRAINERS[name]
    done = run(trainer, tmp_path, "a", *SHORT)
    right = right_ids(done)
    assert json.loads((done / "token_map.json").read_text()) == right
    assert read_token_map(done / "model") == right
    moved, alone = tmp_path / "moved", tmp_path / "alone"
    half = f"{done}/checkpoints/1"
    assert export.main([half, "--to", str(moved)]) == 0
    assert export.main([half, "--to", str(alone), "--model-only"]) == 0
    assert read_token_map(moved) == read_token_map(alone) == right
    crossed = go_on(TRAINERS[other][0], moved, tmp_path, "crossed", 2)
    assert read_token_map(crossed) == right == read_token_map(crossed / "model")


@pytest.mark.slow
def test_a_resumed_run_may_ask_for_another(tmp_path):
    done = run(jax_train, tmp_path, "a", *SHORT)
    again = f"--resume {done} --decoding.draft-vocab 4 --train.max-steps 3".split()
    assert jax_train.main(again) == 0
    assert read_token_map(done / "model") == right_ids(done)[:4] == read_token_map(done)
    again = f"--resume {done} --decoding.draft-vocab 0 --train.max-steps 4".split()
    assert jax_train.main(again) == 0
    assert read_token_map(done / "model") is None is read_token_map(done)


def test_a_map_of_all_is_none(tmp_path, capsys):
    place = ["--output-dir", str(tmp_path / "runs"), "--decoding.draft-vocab", "259"]
    assert jax_train.main([*trained.SMALL, *place]) == 2
    said = capsys.readouterr().err
    assert "decoding.draft_vocab must be below model.vocab_size = 259, got 259" in said
    assert not (tmp_path / "runs").exists()
