"""The file in exported folders: all heads for those who trust it, and only for them."""

import inspect
import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests import exported
from tests.exported import (
    HEADS_FILE,
    ONE_PER_FAMILY,
    TEMPLATE,
    TYPES,
    D,
    K,
    L,
    V,
    make_folder,
    open_heads,
    stock_model,
    tokens,
)

modules_cache, made = exported.modules_cache, exported.made


@pytest.mark.parametrize("case", ONE_PER_FAMILY)
def test_without_trust_the_folder_is_the_plain_base_model(made, case, monkeypatch):
    def ask(prompt=""):
        raise AssertionError(prompt)

    monkeypatch.setattr("builtins.input", ask)
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())
    folder, stock = made(case, "block"), stock_model(case)
    ours = open_heads(folder)  # first, so that it could replace the stock class
    logging.getLogger("transformers").addHandler(handler)
    try:
        plain, info = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True
        )
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert type(plain) is type(ours.base) is type(stock)
    assert not any(info.values()) and not said
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    assert mapping[type(plain.config)] is type(stock)
    with torch.no_grad():
        logits_BLV = plain(tokens()).logits
        assert torch.equal(logits_BLV, ours(tokens()).logits[:, :, 0])
        assert torch.equal(logits_BLV, stock(tokens()).logits)
        assert torch.equal(logits_BLV, open_heads(folder).base(tokens()).logits)


def test_trust_reaches_no_further_than_this_file(tmp_path):
    folder = make_folder(tmp_path / "model", "qwen2-tied", "linear")
    (folder / "custom_generate").mkdir()
    code = "def generate(model, *args, **kwargs):\n    return 'of the folder'\n"
    (folder / "custom_generate" / "generate.py").write_text(code)
    model = open_heads(folder)
    assert model.generate(tokens(), max_new_tokens=1).shape == (2, L + 1)


def cut(folder: Path):
    path = folder / HEADS_FILE
    path.write_bytes(path.read_bytes()[:-100])


def change(edit):
    def damage(folder: Path):
        tensors = load_file(folder / HEADS_FILE)
        edit(tensors)
        (folder / HEADS_FILE).unlink()
        save_file(tensors, folder / HEADS_FILE)

    return damage


def tell(**mtp_config):
    def damage(folder: Path):
        config = json.loads((folder / "config.json").read_text())
        config["mtp_config"] = mtp_config
        (folder / "config.json").write_text(json.dumps(config))

    return damage


LAST = "mtp_heads.2.norm.weight"
DAMAGES = {
    "missing": (
        change(lambda x: x.pop(LAST)),
        rf"{LAST} must be of shape \(24,\), is absent",
    ),
    "extra": (
        change(lambda x: x.update({"mtp_heads.3.norm.weight": x[LAST].clone()})),
        "mtp_heads.3.norm.weight must be absent, is of shape",
    ),
    "stray": (
        change(lambda x: x.update({"base.lm_head.weight": torch.zeros(V, D)})),
        "base.lm_head.weight must be absent, is of shape",
    ),
    "shape": (
        change(lambda x: x.update({LAST: torch.zeros(D + 1)})),
        rf"{LAST} must be of shape \(24,\), is of shape \(25,\)",
    ),
    "cut": (cut, "mtp_heads.safetensors of .* cannot be read"),
    "none": (
        lambda folder: (folder / HEADS_FILE).unlink(),
        "mtp_heads.safetensors of .* cannot be read",
    ),
    "fewer heads": (
        tell(n_future_tokens=2, head_type="block"),
        "mtp_heads.2.block.* must be absent",
    ),
    "one head": (
        tell(n_future_tokens=1, head_type="block"),
        "mtp_config of config.json must have n_future_tokens >= 2",
    ),
    "type": (
        tell(n_future_tokens=3, head_type="tree"),
        "a head_type of linear, residual, medusa, block; got .*tree",
    ),
    "nothing": (tell(), "must have n_future_tokens >= 2 .* got {}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_heads_that_do_not_fit_are_refused_by_name(tmp_path, damage):
    folder = make_folder(tmp_path / "model", "llama-tied-grouped", "block")
    spoil, message = DAMAGES[damage]
    spoil(folder)
    with pytest.raises(ValueError, match=message) as caught:
        open_heads(folder)
    assert "\n" not in str(caught.value)
    AutoModelForCausalLM.from_pretrained(folder)  # the base model is none the worse


def test_a_family_without_an_entry_is_refused(made):
    remote = type(open_heads(made("gpt2-codeparrot", "linear")))
    with pytest.raises(ValueError, match="one of gpt2, llama, qwen2; got mistral"):
        remote(transformers.MistralConfig())


@pytest.mark.parametrize("head_type", TYPES)
@pytest.mark.parametrize("case", ONE_PER_FAMILY)
def test_what_is_saved_opens_as_it_was(made, tmp_path, case, head_type):
    model = open_heads(made(case, head_type))
    with torch.no_grad():
        for x in model.mtp_heads.parameters():  # so that nothing is a mere copy
            x.mul_(1.5)
        model.get_input_embeddings().weight.mul_(1.1)
    model.generation_config = transformers.GenerationConfig(max_new_tokens=4)
    # What transformers may make of it for a name on the hub.
    mapped = "some/model--modeling_wmtp.WMTPForCausalLM"
    model.config.auto_map = {"AutoModelForCausalLM": mapped}
    right = model(tokens()).logits
    model.save_pretrained(tmp_path / "all")
    # As Trainer does: the state of the whole model comes from outside.
    model.save_pretrained(tmp_path / "given", state_dict=model.state_dict())
    for folder in (tmp_path / "all", tmp_path / "given"):
        again, info = open_heads(folder, output_loading_info=True)
        assert not any(info.values())
        assert torch.equal(again(tokens()).logits, right)
        assert again.generation_config.max_new_tokens == 4
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(plain(tokens()).logits, right[:, :, 0])
        first = {path.name for path in made(case, head_type).iterdir()}
        assert {path.name for path in folder.iterdir()} == first
        assert (folder / "modeling_wmtp.py").read_bytes() == TEMPLATE.read_bytes()
        original = load_file(made(case, head_type) / HEADS_FILE)
        assert load_file(folder / HEADS_FILE).keys() == original.keys()
        for name in ("mtp_config", "auto_map", "architectures", "model_type"):
            old, new = (
                json.loads((f / "config.json").read_text())[name]
                for f in (made(case, head_type), folder)
            )
            assert old == new


def test_saving_leaves_the_writing_to_the_main_process(made, tmp_path):
    model = open_heads(made("gpt2-codeparrot", "linear"))
    model.save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / HEADS_FILE).exists()
    with pytest.raises(ValueError, match="push_to_hub must be False"):
        model.save_pretrained(tmp_path, push_to_hub=True)


@pytest.mark.parametrize("head_type", TYPES)
def test_a_config_alone_gives_a_new_model(made, head_type):
    config = AutoConfig.from_pretrained(made("gpt2-untied", head_type))
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    assert model(tokens()).logits.shape == (2, L, K, V)
    opened = open_heads(made("gpt2-untied", head_type)).state_dict()
    assert {n: x.shape for n, x in model.state_dict().items()} == {
        n: x.shape for n, x in opened.items()
    }


def test_the_class_opens_a_folder_by_itself(made, modules_cache):
    folder = made("llama3-rope", "residual")
    ours = open_heads(folder)
    assert Path(inspect.getfile(type(ours))).is_relative_to(modules_cache)
    for path in (folder, str(folder)):
        again = type(ours).from_pretrained(path, attn_implementation="eager")
        assert again.config._attn_implementation == "eager"
        assert again.state_dict().keys() == ours.state_dict().keys()
