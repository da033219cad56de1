"""A tokenizer may have more ids than a model has rows, if the documents do not."""

import json
from dataclasses import replace

import pytest

from shared.config.layers import build
from shared.data.documents import load_examples
from shared.huggingface.config_json import read_hf_config
from shared.run.inputs import read_inputs
from shared.state.frozen_models import find_reward_model
from tests.started import folder_of, refusal, run
from wmtp_jax import prepare

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


def test_models_with_fewer_rows_are_prepared_trained_and_asked(tmp_path):
    """As base, as reference and as what a reward model is made of."""
    base = folder_of(CASE, tmp_path / "base", vocab_size=ASCII)
    reward = tmp_path / "reward"
    made = f"--model {base} --kind reward --out {reward}".split()
    assert prepare.main(made) == 0
    source = write(tmp_path, "return 1")
    options = ["--model", base, "--reference", base, "--reward-model", reward]
    trained = run(tmp_path, "run", *options, "--algo", "critic", "--data", source,
                  "--data.batch-size", "2", "--train.max-steps", "1")  # fmt: skip
    assert read_hf_config(trained / "model").layer["model.vocab_size"] == ASCII


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
