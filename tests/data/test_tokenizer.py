"""Tokenizers: exact round trips, no special token out of a text, one-line errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from shared.data.tokenizer import load_tokenizer, wrapped

BYT5 = ByT5Tokenizer(extra_ids=0, model_max_length=10**9)
BYTES = load_tokenizer("bytes")


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_bytes_round_trip(text):
    encoded = BYTES.encode(text)
    assert encoded == [byte + 3 for byte in text.encode()]
    assert BYTES.decode(encoded) == text


@pytest.mark.parametrize("text", ["", "</s>", "a </s> b", "<pad><unk>\n </s>\n", "\0"])
def test_special_tokens_in_a_text_are_text(text):
    assert not {0, 1, 2} & set(BYTES.encode(text))
    assert BYTES.decode(BYTES.encode(text)) == text


def test_bytes():
    assert (BYTES.vocab_size, BYTES.eos_id, BYTES.name) == (259, 1, "bytes")
    assert BYTES.decode(np.array([1, 100, 0, 9999, 101])) == "ab"
    assert load_tokenizer("bytes").digest == BYTES.digest


@given(st.text(), st.lists(st.integers(0, 300)))
@settings(max_examples=200, deadline=None)
def test_bytes_are_those_of_transformers(text, ids):
    theirs = wrapped(BYT5, "bytes")
    assert BYTES.document(text, "a") == theirs.document(text, "a")
    assert BYTES.decode(ids) == theirs.decode(ids)
    for name in ("digest", "vocab_size", "eos_id", "before", "after", "controls"):
        assert getattr(BYTES, name) == getattr(theirs, name), name
    assert BYTES.special == theirs.special


def hugging_face_folder(path, **settings):
    """A tokenizer folder with words, brackets and an eos token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[unk]", "def", "add", "<", "/", "s", ">", "[eos]"]
    vocab = {word: i for i, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="[unk]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="[unk]", **settings
    ).save_pretrained(path)
    return str(path)


def test_a_folder_of_a_hugging_face_tokenizer(tmp_path):
    name = hugging_face_folder(tmp_path / "a", eos_token="</s>")
    tokenizer = load_tokenizer(name)
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (9, 8)
    assert 8 not in tokenizer.encode("def add </s>")
    assert tokenizer.decode([1, 2, tokenizer.eos_id]) == "def add"
    again = hugging_face_folder(tmp_path / "b", eos_token="</s>")
    assert load_tokenizer(again).digest == tokenizer.digest
    other = hugging_face_folder(tmp_path / "c", eos_token="[eos]")
    assert load_tokenizer(other).digest != tokenizer.digest


def test_tokenizers_that_cannot_be_used(tmp_path):
    with pytest.raises(ValueError, match="must have an eos token, got none in"):
        load_tokenizer(hugging_face_folder(tmp_path / "a"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "tokenizer.json").write_text("{")
    for name in ("nowhere", "gpt2", str(tmp_path / "empty"), str(tmp_path / "damaged")):
        with pytest.raises(ValueError, match=r"^data\.tokenizer must be `bytes`") as e:
            load_tokenizer(name)
        assert "\n" not in str(e.value) and name in str(e.value)


def test_code_in_a_tokenizer_folder_is_not_run(tmp_path, monkeypatch):
    # Nobody is asked for leave, either: a yes at a prompt would run it.
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tmp_path / "evil"
    folder.mkdir()
    settings = {
        "tokenizer_class": "Evil",
        "auto_map": {"AutoTokenizer": ["evil.Evil", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    ran = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\nclass Evil: pass\n")
    with pytest.raises(ValueError, match=r"^data\.tokenizer must be `bytes`"):
        load_tokenizer(str(folder))
    assert not ran.exists()


# Without torch, network or noise
BARE = """
import logging, socket, sys
from importlib.machinery import PathFinder

class WithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.split(".")[0] in ("torch", "jax", "flax", "optax", "orbax")
        return None if hidden else super().find_spec(name, path, target)

def refuse(*arguments, **settings):
    raise AssertionError(f"network: {arguments}")

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutTorch
socket.socket.connect = socket.getaddrinfo = refuse
import shared.data.batches, shared.data.documents, shared.data.tokenizer
import shared.signals.cache, shared.targets
late = {"transformers", "datasets"} & set(sys.modules)
assert not late, late
from shared.config.fields import DataConfig
for name in sys.argv[2:]:
    tokenizer = shared.data.tokenizer.load_tokenizer(name)
    splits = shared.data.documents.load_splits(
        DataConfig(source=sys.argv[1]), tokenizer, splits=("train", "validation")
    )
    shared.data.batches.TrainBatches(
        splits["train"], {},
        max_length=128,
        batch_size=2, accumulation=1, layout="packed", seed=0,
    ).__next__()
assert logging.getLogger("wmtp").isEnabledFor(logging.WARNING)
assert not {"torch", "jax"} & set(sys.modules)
"""


def test_needs_no_torch_no_network_and_says_nothing(tmp_path):
    name = hugging_face_folder(tmp_path / "tokenizer", eos_token="</s>")
    source = tmp_path / "all.jsonl"
    row = {"prompt": "def f():\n", "completion": "    return 1\n"}
    source.write_text((json.dumps(row) + "\n") * 12)
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BARE, str(source), "bytes", name],
        cwd=Path(__file__).parents[2],
        env=kept | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(home.iterdir())
