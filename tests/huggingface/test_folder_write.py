"""Writing a folder: all or nothing, and the tokenizer that goes with it."""

import logging
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from shared.config.fields import HeadsConfig
from shared.config.model import ModelConfig
from shared.data.tokenizer import load_tokenizer
from shared.huggingface import folder
from shared.huggingface.folder import read_model, write_model
from shared.huggingface.safetensors import write_file
from shared.huggingface.tree import ByName, to_tensors
from tests import trees
from tests.trees import (
    MODEL,
    NTP,
    assert_same,
    open_stock,
    random_params,
    refuses,
    small,
)

tokenizer, no_bars = trees.tokenizer, trees.no_bars


# Writing: all or nothing.


@pytest.mark.parametrize("there", ["file", "folder with a file"])
def test_a_folder_that_holds_something_stays(tmp_path, tokenizer, there):
    cfg, out = small("gpt2"), tmp_path / "out"
    if there == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").touch()
    refuses(
        lambda: write_model(out, random_params(cfg), cfg, NTP, tokenizer),
        "new or empty",
        str(out),
    )
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path, tokenizer):
    cfg, out = small("gpt2"), tmp_path / "out"
    out.mkdir()
    write_model(out, random_params(cfg), cfg, NTP, tokenizer)
    assert_same(read_model(out, cfg), random_params(cfg))


def test_a_folder_that_cannot_be_made(tmp_path, tokenizer):
    (tmp_path / "file").touch()
    cfg, out = small("gpt2"), tmp_path / "file" / "out"
    refuses(
        lambda: write_model(out, random_params(cfg), cfg, NTP, tokenizer),
        "can be written",
        str(out),
    )


@pytest.mark.parametrize("file", [MODEL, "mtp_heads.safetensors"])
def test_what_is_not_read_back_equal_is_not_kept(
    tmp_path, tokenizer, monkeypatch, file
):
    def write_wrong(path, tensors):
        write_file(path, tensors)
        if path.name == file:
            content = bytearray(path.read_bytes())
            content[-1] ^= 64
            path.write_bytes(content)

    monkeypatch.setattr(folder, "write_file", write_wrong)
    cfg, heads = small("gpt2"), HeadsConfig(count=2)
    params = random_params(cfg, heads)
    last = {MODEL: "'transformer.h.1.", "mtp_heads.safetensors": "'mtp_heads.1.weight'"}
    refuses(
        lambda: write_model(tmp_path / "out", params, cfg, heads, tokenizer),
        last[file],
        file,
    )
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, tokenizer, monkeypatch):
    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_file", full)
    cfg = small("gpt2")
    refuses(
        lambda: write_model(tmp_path / "out", random_params(cfg), cfg, NTP, tokenizer),
        "No space left",
    )
    assert not list(tmp_path.iterdir())


def test_trees_that_do_not_fit(tmp_path, tokenizer):
    cfg, heads = small("llama"), HeadsConfig(count=2)

    def write(change, heads=heads, kind="causal"):
        params = random_params(cfg, HeadsConfig(count=2), value=True)
        change(params)
        write_model(tmp_path / "out", params, cfg, heads, tokenizer, kind=kind)

    refuses(lambda: write(lambda p: p["trunk"].pop("embed")), "trunk/embed", "none")
    refuses(lambda: write(lambda p: p["trunk"].update(more=np.ones(1))), "trunk/more")
    wrong = {"unembed": np.ones((1, 259, 16))}
    refuses(lambda: write(lambda p: p["heads"].update(wrong)), "(1, 260, 16)", "259")
    refuses(lambda: write(lambda p: None, NTP), "heads/unembed", "no such leaf")
    refuses(lambda: write(lambda p: None, kind="reward"), "reward")
    assert not list(tmp_path.iterdir())


def test_arrays_of_jax_and_numbers_that_are_not_finite(tmp_path, tokenizer):
    cfg = small("qwen2")
    params = random_params(cfg)
    params["trunk"]["norm"]["scale"][3] = np.nan
    halves = {
        **params["trunk"],
        "embed": jnp.asarray(params["trunk"]["embed"], "bfloat16"),
    }
    write_model(tmp_path / "out", {"trunk": halves, "heads": {}}, cfg, NTP, tokenizer)
    params["trunk"]["embed"] = np.asarray(halves["embed"], np.float32)
    assert_same(read_model(tmp_path / "out", cfg), params)


# Tokenizers.


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_bytes_stay_bytes(tmp_path, tokenizer, caplog, shape):
    cfg = small(shape)
    write_model(tmp_path / "out", random_params(cfg), cfg, NTP, tokenizer)
    assert not caplog.records
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "def f(é):\n\treturn  1"
    ids = found(text, add_special_tokens=False)["input_ids"]
    assert ids == tokenizer.encode(text)
    assert (found.eos_token_id, found.pad_token_id) == (1, 0)
    assert found.model_max_length == cfg.max_positions
    assert load_tokenizer(str(tmp_path / "out")).digest == tokenizer.digest


def test_a_real_tokenizer_comes_along(tmp_path, caplog):
    source = Path(__file__).parents[3] / "shared" / "data" / "gpt2_tokenizer"
    if not (source / "tokenizer.json").is_file():
        pytest.skip("needs the GPT-2 tokenizer in ../shared/data/gpt2_tokenizer")
    gpt2 = load_tokenizer(str(source))
    cfg = ModelConfig(num_layers=1, width=8, num_attention_heads=2, vocab_size=50257)
    params = random_params(cfg)
    write_model(tmp_path / "out", params, cfg, NTP, gpt2)
    assert load_tokenizer(str(tmp_path / "out")).digest == gpt2.digest
    assert not caplog.records
    stock = open_stock(tmp_path / "out")
    assert stock.generation_config.eos_token_id == gpt2.eos_id == 50256
    # No path of this machine goes with the folder.
    texts = [p.read_text() for p in (tmp_path / "out").glob("*.json")]
    assert not any(str(source) in text for text in texts)
    shutil.rmtree(tmp_path / "out")


def test_tensors_by_name_are_written_as_a_tree_is(tmp_path, tokenizer):
    """Without stacking them; one that is missing is named."""
    cfg = small("llama")
    params = random_params(cfg)
    named = ByName(to_tensors(params, cfg, NTP))
    for name, given in (("tree", params), ("names", named)):
        write_model(tmp_path / name, given, cfg, NTP, tokenizer)
    one, other = (tmp_path / name / "model.safetensors" for name in ("tree", "names"))
    assert one.read_bytes() == other.read_bytes()
    del named["model.norm.weight"]
    with pytest.raises(ValueError, match=r"params must hold .*model\.norm\.weight"):
        write_model(tmp_path / "less", named, cfg, NTP, tokenizer)
    assert not (tmp_path / "less").exists()


def test_a_tokenizer_that_transformers_will_misread_is_told_of(
    tmp_path, tokenizer, caplog
):
    """For qwen2 it takes Qwen2's class, whatever the folder says."""
    cfg = small("qwen2")
    with caplog.at_level(logging.WARNING, "wmtp"):
        write_model(tmp_path / "out", random_params(cfg), cfg, NTP, tokenizer)
    (record,) = caplog.records
    assert "ByT5Tokenizer.from_pretrained" in record.getMessage()
    found = transformers.ByT5Tokenizer.from_pretrained(tmp_path / "out")
    assert found.encode("é", add_special_tokens=False) == tokenizer.encode("é")
