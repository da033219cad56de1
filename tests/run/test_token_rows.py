"""A tokenizer and models: rows for the ids in use, a reference with the same ids."""

import json
from dataclasses import replace

import pytest

from shared.config.layers import build
from shared.data.documents import load_examples
from shared.huggingface.config_json import read_hf_config
from shared.run.inputs import read_inputs
from shared.state.frozen_models import find_reward_model
from tests import hf_models, small_tokenizers
from tests.started import SHORT, folder_of, refusal
from wmtp_torch_mps import train

ASCII = 3 + 128  # rows of the byte tokenizer that plain English needs; it has 259 ids
CASE = "llama-tied-grouped"


def write(tmp_path, text):
    rows = [{"prompt": "def f():\n", "completion": f"    {text}\n"}] * 12
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize("trainer", ["wmtp_jax", "wmtp_torch_mps"])
def test_ids_in_use_need_a_row_and_no_others(tmp_path, trainer):
    shape = {"model.name": "smoke", "heads.count": 2, "model.vocab_size": ASCII}
    cfg = build(shape | {"data.source": write(tmp_path, "return 1")})
    inputs = read_inputs(cfg, trainer)
    assert (inputs.cfg.model.vocab_size, inputs.tokenizer.vocab_size) == (ASCII, 259)
    cfg = replace(cfg, data=replace(cfg.data, source=write(tmp_path, "return 'é'")))
    with pytest.raises(ValueError) as caught:
        read_inputs(cfg, trainer)
    assert str(caught.value) == (
        "model.vocab_size must have a row for every token of the data, got 131 rows "
        "and token 198 ('Ã') in example '0' of split 'train'"
    )


def test_models_with_fewer_rows_are_trained_and_asked(tmp_path):
    """As base, as reference and as reward model."""
    base = folder_of(CASE, tmp_path / "base", vocab_size=ASCII)
    reward = folder_of(CASE, tmp_path / "reward", "reward", vocab_size=ASCII)
    source = write(tmp_path, "return 1")
    options = ["--model", str(base), "--data", source, "--device", "cpu"]
    limit = ["--train.max-steps", "1", "--output-dir", str(tmp_path)]
    assert train.main([*SHORT, *options, *limit, "--run-name", "run"]) == 0
    exported = read_hf_config(tmp_path / "run" / "model").layer
    assert exported["model.vocab_size"] == ASCII
    models = {"reference.model": str(base), "critic.reward_model": str(reward)}
    fields = exported | models | {"model.name": str(base), "heads.count": 1}
    fields |= {"data.source": source, "data.max_length": 32}
    for algo, asked in {"critic": "reward", "rho1-weighted": "reference"}.items():
        inputs = read_inputs(build(fields | {"algo": algo}), "wmtp_torch_mps")
        assert inputs.models.keys() == {asked}


def test_frozen_models_without_a_row_are_named(tmp_path, capsys):
    source = write(tmp_path, "return 'é'")
    base = folder_of(CASE, tmp_path / "base", vocab_size=259)
    small = folder_of(CASE, tmp_path / "small", vocab_size=ASCII)
    line = refusal(capsys, "--model", base, "--reference", small, "--data", source,
                   "--algo", "rho1-weighted", "--output-dir", tmp_path)  # fmt: skip
    assert "the reference must have a row for every token of the data, got 131" in line
    reward = folder_of(CASE, tmp_path / "reward", "reward", vocab_size=ASCII)
    cfg = build({"data.source": source, "critic.reward_model": str(reward)})
    cfg = replace(cfg, data=replace(cfg.data, max_length=32))
    with pytest.raises(ValueError, match=r"^the reward model must have a row for"):
        find_reward_model(cfg, load_examples(cfg.data))


def test_a_reference_that_begins_texts_otherwise_is_refused(tmp_path, capsys):
    """Its documents would begin with a BOS, or without one."""
    for name, kind in {"base": "metaspace with BOS", "other": "metaspace"}.items():
        shape = {"vocab_size": 900, "max_position_embeddings": 64}
        hf_models.save(hf_models.make(CASE, **shape), tmp_path / name)
        small_tokenizers.saved(kind, tmp_path / name)
    line = refusal(capsys, "--model", tmp_path / "base", "--algo", "rho1-weighted",
                   "--reference", tmp_path / "other")  # fmt: skip
    assert "got other ids for sample 'train/train/1' from token 0 on" in line
