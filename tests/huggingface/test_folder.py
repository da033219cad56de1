"""Models in and out, with `transformers` as the judge of every name and layout."""

import json

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers

from shared.huggingface.folder import read_model, read_reward_model, write_model
from tests import trees
from tests.hf_models import CASES, make, save
from tests.trees import (
    MODEL,
    NTP,
    assert_close,
    assert_equal_models,
    assert_same,
    config_of,
    flat,
    open_stock,
    refuses,
    shapes,
)

tokenizer, no_bars = trees.tokenizer, trees.no_bars
ONE_EACH = ["gpt2", "llama-untied-biases", "qwen2-tied"]


# In, and out again.


@pytest.mark.parametrize("case", CASES)
def test_stock_models_go_in_and_out(tmp_path, tokenizer, case):
    theirs = make(case, vocab_size=260)
    save(theirs, tmp_path / "in")
    cfg = config_of(tmp_path / "in")
    params = read_model(tmp_path / "in", cfg)
    right = shapes(cfg, NTP)
    assert {k: x.shape for k, x in flat(params).items()} == flat(right)
    write_model(tmp_path / "deep" / "out", params, cfg, NTP, tokenizer)
    out = tmp_path / "deep" / "out"
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    ours = open_stock(out)
    assert type(ours) is type(theirs)
    assert_equal_models(ours, theirs)
    assert config_of(out) == cfg
    tokens = torch.randint(3, 259, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(ours(tokens).logits, theirs(tokens).logits)
    assert_same(read_model(out, cfg), params)
    # Names and layout of the file are those of transformers, with nothing beside them.
    files = [safetensors.numpy.load_file(f / MODEL) for f in (tmp_path / "in", out)]
    assert files[0].keys() == files[1].keys()
    assert ours.generation_config.eos_token_id == tokenizer.eos_id
    assert ours.generation_config.pad_token_id == 0


@pytest.mark.parametrize("case", ONE_EACH)
def test_layers_are_stacked_turned_and_fused(tmp_path, case):
    """Against the definitions: x @ kernel + bias is the layer of transformers."""
    theirs = make(case)
    cfg = config_of(save(theirs, tmp_path / "in"))
    blocks = read_model(tmp_path / "in", cfg)["trunk"]["blocks"]
    qkv = blocks["attention"]["qkv"]
    x = np.random.default_rng(0).normal(size=(5, cfg.width)).astype("f4")
    for layer in range(cfg.num_layers):
        got = x @ qkv["kernel"][layer] + qkv["bias"][layer]
        with torch.no_grad():
            if case == "gpt2":
                right = theirs.transformer.h[layer].attn.c_attn(torch.tensor(x)).numpy()
            else:
                of = theirs.model.layers[layer].self_attn
                parts = (of.q_proj, of.k_proj, of.v_proj)
                right = np.concatenate([p(torch.tensor(x)) for p in parts], axis=-1)
        np.testing.assert_allclose(got, right, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_and_shards(tmp_path, dtype):
    theirs = make("llama-untied-biases").to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    cfg = config_of(tmp_path / "whole")
    whole, shards = (read_model(tmp_path / f, cfg) for f in ("whole", "shards"))
    assert_same(shards, whole)
    right = theirs.model.layers[1].mlp.gate_proj.weight.detach().float().numpy().T
    np.testing.assert_array_equal(whole["trunk"]["blocks"]["gate"]["kernel"][1], right)


@pytest.mark.parametrize("case", ["gpt2", "llama-tied-grouped", "qwen2-tied"])
def test_base_models_have_names_without_a_prefix(tmp_path, case):
    theirs = make(case)
    cfg = config_of(save(theirs, tmp_path / "whole"))
    base = theirs.transformer if case == "gpt2" else theirs.model
    save(base, tmp_path / "base")
    names = safetensors.numpy.load_file(tmp_path / "base" / MODEL)
    assert not any(name.startswith(("transformer.", "model.")) for name in names)
    right = read_model(tmp_path / "whole", cfg)
    assert_same(read_model(tmp_path / "base", config_of(tmp_path / "base")), right)


@pytest.mark.parametrize("case", ONE_EACH)
def test_constants_of_older_versions_are_passed_over(tmp_path, case):
    folder, prefix = save(make(case), tmp_path / "in"), "model."
    cfg = config_of(folder)
    right = read_model(folder, cfg)
    tensors = safetensors.torch.load_file(folder / MODEL)
    if case == "gpt2":
        prefix = "transformer."
        buffers = ["h.0.attn.bias", "h.1.attn.masked_bias"]
    else:
        buffers = ["layers.0.self_attn.rotary_emb.inv_freq", "rotary_emb.inv_freq"]
    for name in buffers:  # one of a dtype that weights may not have
        tensors[prefix + name] = torch.zeros(3, dtype=torch.uint8)
    safetensors.torch.save_file(tensors, folder / MODEL)
    assert_same(read_model(folder, cfg), right)


@pytest.mark.parametrize("case", ["gpt2", "llama-tied-grouped"])
def test_a_tied_unembedding_may_be_stored_twice(tmp_path, case):
    folder = save(make(case), tmp_path / "in")
    cfg = config_of(folder)
    right = read_model(folder, cfg)
    tensors = safetensors.numpy.load_file(folder / MODEL)
    embed = next(
        name for name in tensors if name.endswith(("wte.weight", "embed_tokens.weight"))
    )
    tensors["lm_head.weight"] = tensors[embed].copy()
    safetensors.numpy.save_file(tensors, folder / MODEL)
    assert_same(read_model(folder, cfg), right)
    tensors["lm_head.weight"][3, 3] += 1
    safetensors.numpy.save_file(tensors, folder / MODEL)
    refuses(lambda: read_model(folder, cfg), "'lm_head.weight'", f"'{embed}'", MODEL)


# What is refused.


@pytest.mark.parametrize("case", ONE_EACH)
@pytest.mark.parametrize("shards", [False, True])
def test_damaged_folders_name_the_tensor(tmp_path, case, shards):
    theirs, folder = make(case), tmp_path / "in"
    theirs.save_pretrained(folder, max_shard_size="30KB" if shards else "1GB")
    cfg = config_of(folder)
    read_model(folder, cfg)
    path = sorted(folder.glob("*.safetensors"))[0]
    whole = path.read_bytes()
    tensors = safetensors.numpy.load_file(path)
    name = sorted(tensors)[-1]
    index = folder / "model.safetensors.index.json"

    def refused_with(tensors, *parts):
        safetensors.numpy.save_file(tensors, path)
        refuses(lambda: read_model(folder, cfg), *map(str, parts), str(folder))

    shape = tensors[name].shape
    less = np.ascontiguousarray(tensors[name][..., :-1])
    wrong = {n: x for n, x in tensors.items() if n != name}
    refused_with(wrong, repr(name), "none", *([] if shards else [shape]))
    refused_with(tensors | {name: less}, repr(name), shape, less.shape)
    refused_with(tensors | {name: tensors[name].astype("i4")}, repr(name), "I32")
    if shards:
        index = folder / "model.safetensors.index.json"
        listed = json.loads(index.read_text())
        listed["weight_map"]["h.99.attn.q"] = path.name
        index.write_text(json.dumps(listed))
    refused_with(tensors | {"h.99.attn.q": less}, "'h.99.attn.q'")
    header = int.from_bytes(whole[:8], "little")
    path.write_bytes(whole[: 8 + header + (len(whole) - 8 - header) // 2])
    refuses(lambda: read_model(folder, cfg), path.name, "cut short")


def test_shapes_are_those_of_the_config(tmp_path):
    folder = save(make("gpt2"), tmp_path / "in")
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | {"n_positions": 41}))
    refuses(
        lambda: read_model(folder, config_of(folder)),
        "'transformer.wpe.weight'",
        "(41, 24)",
        "(40, 24)",
    )


def test_many_missing_and_extra_tensors_make_one_short_line(tmp_path):
    folder = save(make("gpt2"), tmp_path / "in")
    cfg = config_of(folder)
    tensors = safetensors.numpy.load_file(folder / MODEL)
    first = {"transformer.wte.weight": tensors["transformer.wte.weight"]}
    safetensors.numpy.save_file(first, folder / MODEL)
    refuses(lambda: read_model(folder, cfg), "'transformer.", "38 more missing")
    many = tensors | {f"junk.{i}": np.ones(1, "f4") for i in range(9)}
    safetensors.numpy.save_file(many, folder / MODEL)
    refuses(lambda: read_model(folder, cfg), "'junk.0', 'junk.1'", "6 more extra")


def test_an_untied_model_needs_its_unembedding(tmp_path):
    folder = save(make("llama-untied-biases"), tmp_path / "in")
    tensors = safetensors.numpy.load_file(folder / MODEL)
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, folder / MODEL)
    refuses(lambda: read_model(folder, config_of(folder)), "'lm_head.weight'")


def test_pickles_are_refused(tmp_path):
    folder = save(make("gpt2"), tmp_path / "in")
    cfg = config_of(folder)
    (folder / MODEL).rename(folder / "pytorch_model.bin")
    refuses(lambda: read_model(folder, cfg), "pytorch_model.bin", "save_pretrained")


# Reward models.


@pytest.mark.parametrize("case", ["gpt2", "llama-untied-biases", "qwen2-tied"])
def test_reward_models_go_in_and_out(tmp_path, tokenizer, case):
    theirs = make(case, "reward", vocab_size=260)
    save(theirs, tmp_path / "in")
    cfg = config_of(tmp_path / "in")
    params = read_reward_model(tmp_path / "in", cfg)
    assert params.keys() == {"trunk", "score"} and "unembed" not in params["trunk"]
    np.testing.assert_array_equal(params["score"], theirs.score.weight.detach()[0])
    write_model(tmp_path / "out", params, cfg, NTP, tokenizer, kind="reward")
    kind = transformers.AutoModelForSequenceClassification
    ours = open_stock(tmp_path / "out", kind)
    assert_equal_models(ours, theirs)
    assert type(ours) is type(theirs) and ours.config.num_labels == 1
    tokens = torch.randint(3, 259, (2, 9), generator=torch.Generator().manual_seed(0))
    tokens[0, 5:] = 0  # padding
    with torch.no_grad():
        assert_close(ours(tokens).logits, theirs(tokens).logits)
    assert_same(read_reward_model(tmp_path / "out", cfg), params)
    refuses(lambda: read_model(tmp_path / "out", cfg), "causal", "reward")


def test_a_causal_model_is_no_reward_model(tmp_path):
    folder = save(make("gpt2"), tmp_path / "in")
    refuses(lambda: read_reward_model(folder, config_of(folder)), "reward", "causal")
