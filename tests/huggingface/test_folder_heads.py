"""Heads and value head in and out, in files of their own with the layout of torch."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch

from shared.config.fields import HeadsConfig
from shared.head_types import HEAD_TYPES as ROWS
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.folder import from_tensors, read_model, to_tensors, write_model
from shared.huggingface.names import file_of
from shared.huggingface.safetensors import write_file
from tests import trees
from tests.trees import (
    MODEL,
    NTP,
    SHAPES,
    assert_same,
    open_stock,
    random_params,
    refuses,
    small,
)

tokenizer, no_bars = trees.tokenizer, trees.no_bars
HEAD_TYPES = list(ROWS)


@pytest.mark.parametrize("head_type", HEAD_TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_heads_go_out_and_in(tmp_path, tokenizer, shape, head_type):
    cfg, heads = small(shape), HeadsConfig(count=3, type=head_type)
    params = random_params(cfg, heads, value=True)
    write_model(tmp_path / "out", params, cfg, heads, tokenizer)
    described = read_hf_config(tmp_path / "out")
    assert (described.num_heads, described.head_type) == (3, head_type)
    assert_same(read_model(tmp_path / "out", cfg), params)
    assert (tmp_path / "out" / "modeling_wmtp.py").stat().st_size > 1000
    # Without the code in the folder it is the base model.
    stock = open_stock(tmp_path / "out")
    assert type(stock).__module__.startswith("transformers.models.")
    embed = stock.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(embed, params["trunk"]["embed"])


@pytest.mark.parametrize("shape", SHAPES)
def test_heads_have_the_layout_of_torch(tmp_path, tokenizer, shape):
    cfg = small(shape)
    found = {}
    for head_type in HEAD_TYPES:
        heads = HeadsConfig(count=3, type=head_type)
        params = random_params(cfg, heads)
        write_model(tmp_path / head_type, params, cfg, heads, tokenizer)
        path = tmp_path / head_type / "mtp_heads.safetensors"
        found[head_type] = safetensors.torch.load_file(path), params["heads"]
    tensors, tree = found["linear"]
    assert tensors.keys() == {"mtp_heads.1.weight", "mtp_heads.2.weight"}
    assert np.array_equal(tensors["mtp_heads.2.weight"], tree["unembed"][1])
    tensors, tree = found["residual"]
    assert len(tensors) == 4
    assert np.array_equal(tensors["mtp_heads.1.inner.weight"].T, tree["inner"][0])
    assert np.array_equal(tensors["mtp_heads.2.outer.weight"].T, tree["outer"][1])
    tensors, tree = found["medusa"]
    assert len(tensors) == 4
    assert np.array_equal(tensors["mtp_heads.1.outer.weight"].T, tree["kernel"][0])
    assert np.array_equal(tensors["mtp_heads.2.outer.bias"], tree["bias"][1])
    tensors, tree = found["block"]
    stock = open_stock(tmp_path / "block")
    base = stock.base_model
    layer, norm = (
        (base.h[-1], base.ln_f) if hasattr(base, "h") else (base.layers[-1], base.norm)
    )
    for k in (1, 2):
        own = {n: x for n, x in tensors.items() if n.startswith(f"mtp_heads.{k}.")}
        parts = {n.removeprefix(f"mtp_heads.{k}."): x for n, x in own.items()}
        inside = {n[6:]: x for n, x in parts.items() if n.startswith("block.")}
        layer.load_state_dict(inside)  # strict: all of a layer, nothing else
        of_norm = {n[5:]: x for n, x in parts.items() if n.startswith("norm.")}
        norm.load_state_dict(of_norm)
        assert len(inside) + len(of_norm) == len(parts)
        scale = tree["blocks"]["norm1"]["scale"][k - 1]
        first = layer.ln_1 if hasattr(layer, "ln_1") else layer.input_layernorm
        assert np.array_equal(first.weight.detach(), scale)


def test_the_value_head_has_the_layout_of_torch(tmp_path, tokenizer):
    cfg = small("gpt2")
    params = random_params(cfg, value=True)
    write_model(tmp_path / "out", params, cfg, NTP, tokenizer)
    path = tmp_path / "out" / "value_head.safetensors"
    found = safetensors.torch.load_file(path)
    head = torch.nn.ModuleDict(
        {"inner": torch.nn.Linear(16, 8), "outer": torch.nn.Linear(8, 1)}
    )
    value, standards = params["value"], ("mean", "deviation")
    for name in standards:
        assert np.array_equal(found.pop(f"value_head.{name}"), value[name])
    torch.nn.ModuleDict({"value_head": head}).load_state_dict(found)
    x = np.random.default_rng(1).normal(size=(3, 16)).astype("f4")
    right = np.maximum(x @ value["inner"] + value["inner_bias"], 0) @ value["outer"]
    with torch.no_grad():
        got = head["outer"](head["inner"](torch.tensor(x)).relu())[:, 0]
    np.testing.assert_allclose(got, right + value["outer_bias"], atol=1e-5)
    assert not (tmp_path / "out" / "modeling_wmtp.py").exists()
    assert "value" not in read_model(_without(path), cfg)


def _without(path):
    path.unlink()
    return path.parent


def test_heads_and_config_must_agree(tmp_path, tokenizer):
    cfg, heads = small("llama"), HeadsConfig(count=3, type="residual")
    folder, params = tmp_path / "out", random_params(small("llama"), heads)
    write_model(folder, params, cfg, heads, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    file = folder / "mtp_heads.safetensors"

    def rewrite(mtp):
        changed = {n: x for n, x in config.items() if n != "mtp_config"}
        changed |= {"mtp_config": mtp} if mtp else {}
        (folder / "config.json").write_text(json.dumps(changed))

    rewrite({"n_future_tokens": 4, "head_type": "residual"})
    refuses(lambda: read_model(folder, cfg), "'mtp_heads.3.inner.weight'", file.name)
    rewrite({"n_future_tokens": 2, "head_type": "residual"})
    refuses(lambda: read_model(folder, cfg), "'mtp_heads.2.inner.weight'", file.name)
    rewrite({"n_future_tokens": 3, "head_type": "linear"})
    refuses(lambda: read_model(folder, cfg), "'mtp_heads.1.weight'", file.name)
    rewrite(None)
    refuses(lambda: read_model(folder, cfg), "the file alone", file.name)
    rewrite(config["mtp_config"])
    assert_same(read_model(folder, cfg), params)
    file.write_bytes(file.read_bytes()[:-4])
    refuses(lambda: read_model(folder, cfg), "cut short", file.name)
    file.unlink()
    refuses(lambda: read_model(folder, cfg), "mtp_config alone", file.name)


def test_tensors_and_trees_are_inverse(tokenizer):
    """As the moments of an optimizer pass through them: nothing on disk."""
    cfg, heads = small("llama"), HeadsConfig(count=3, type="block")
    params = random_params(cfg, heads, value=True)
    tensors = to_tensors(params, cfg, heads)
    files = {MODEL, "mtp_heads.safetensors", "value_head.safetensors"}
    assert set(map(file_of, tensors)) == files
    assert_same(from_tensors(tensors, cfg, heads, parts=("value",)), params)
    short = {name: x for name, x in tensors.items() if file_of(name) == MODEL}
    refuses(lambda: from_tensors(short, cfg, heads), "mtp_heads.1")


def test_a_tensor_lies_in_its_file(tmp_path, tokenizer):
    cfg, heads, folder = small("llama"), HeadsConfig(count=2), tmp_path / "out"
    params = random_params(cfg, heads, value=True)
    write_model(folder, params, cfg, heads, tokenizer)
    tensors = to_tensors(params, cfg, heads)
    for file in (MODEL, "mtp_heads.safetensors"):
        own = {name: x for name, x in tensors.items() if file_of(name) == file}
        write_file(folder / file, own | {"value_head.inner.bias": np.zeros(8)})
        refuses(lambda: read_model(folder, cfg), "value_head.inner.bias", file)
        write_file(folder / file, own)
    assert_same(read_model(folder, cfg), params)
