"""Folders whose tensors have other names than `transformers` gives them."""

import pytest
import safetensors.numpy

from shared.config.fields import HeadsConfig
from shared.huggingface.folder import (
    check_model,
    read_model,
    read_reward_model,
    write_model,
)
from tests import trees
from tests.hf_models import make, save
from tests.trees import MODEL, assert_same, config_of, random_params, refuses, small

tokenizer, no_bars = trees.tokenizer, trees.no_bars
ONE_EACH = ["gpt2", "llama-untied-biases", "qwen2-tied"]


@pytest.mark.parametrize("case", ["gpt2", "llama-tied-grouped", "qwen2-tied"])
def test_a_tied_model_may_hold_its_unembedding_alone(tmp_path, case):
    folder = save(make(case), tmp_path / "in")
    cfg = config_of(folder)
    right = read_model(folder, cfg)
    tensors = safetensors.numpy.load_file(folder / MODEL)
    embed = next(
        n for n in tensors if n.endswith(("wte.weight", "embed_tokens.weight"))
    )
    tensors["lm_head.weight"] = tensors.pop(embed)
    for prefix in (embed.split(".")[0] + ".", ""):
        renamed = {n.removeprefix(prefix): x for n, x in tensors.items()}
        safetensors.numpy.save_file(renamed, folder / MODEL)
        check_model(folder, cfg)
        assert_same(read_model(folder, cfg), right)
        assert_same(read_model(folder, cfg, extras=False), right)
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, folder / MODEL)
    refuses(lambda: read_model(folder, cfg), repr(embed), "none")


WRAPPERS = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]


@pytest.mark.parametrize("kind", ["causal", "reward"])
@pytest.mark.parametrize("case", ONE_EACH)
def test_names_of_wrapped_models_are_understood(tmp_path, case, kind):
    """As `torch.compile`, DDP and FSDP write them, whole or of a part of the model."""
    read = read_reward_model if kind == "reward" else read_model
    folder = save(make(case, kind), tmp_path / "in")
    cfg = config_of(folder)
    right = read(folder, cfg)
    tensors = safetensors.numpy.load_file(folder / MODEL)
    for wrapper in WRAPPERS:
        named = {wrapper + name: x for name, x in tensors.items()}
        safetensors.numpy.save_file(named, folder / MODEL)
        check_model(folder, cfg, kind)
        assert_same(read(folder, cfg), right)
    inner = {n.replace(".1.", ".1._fsdp_wrapped_module."): x for n, x in named.items()}
    safetensors.numpy.save_file(inner, folder / MODEL)
    assert_same(read(folder, cfg), right)
    name = sorted(tensors)[0]
    safetensors.numpy.save_file(named | {name: tensors[name]}, folder / MODEL)
    refuses(lambda: read(folder, cfg), repr(name), "twice")


def test_heads_of_a_wrapped_model_and_its_tied_unembedding(tmp_path, tokenizer):
    cfg, heads = small("gpt2"), HeadsConfig(count=3)
    params = random_params(cfg, heads, value=True)
    write_model(tmp_path / "out", params, cfg, heads, tokenizer)
    for file in (tmp_path / "out").glob("*.safetensors"):
        tensors = safetensors.numpy.load_file(file)
        if file.name == MODEL:
            tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
        named = {f"_orig_mod.{name}": x for name, x in tensors.items()}
        safetensors.numpy.save_file(named, file)
    assert_same(read_model(tmp_path / "out", cfg), params)
