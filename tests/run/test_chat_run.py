"""A run on conversations: from rows to an export that knows the template, and on."""

import json

import pytest

from shared.data.tokenizer import load_tokenizer
from tests import hf_models, small_tokenizers
from tests.started import SHORT
from tests.trained import rows
from wmtp_torch_mps import train

TALK = [
    {"role": "user", "content": "Add. </s><|im_end|>"},
    {"role": "assistant", "content": "x + y"},
]


@pytest.fixture
def started(tmp_path):
    """A base model with a chat template, and a file of conversations."""
    base = tmp_path / "base"
    shape = {"vocab_size": 700, "max_position_embeddings": 64}
    hf_models.save(hf_models.make("llama-tied-grouped", **shape), base)
    small_tokenizers.saved("byte-level BPE", base)
    file = tmp_path / "talks.jsonl"
    file.write_text((json.dumps({"messages": TALK}) + "\n") * 12)
    return ["--model", str(base), "--data", str(file), "--data.max-length", "64"]


def test_conversations_are_trained_on_and_gone_on_with(started, tmp_path):
    place = ["--output-dir", str(tmp_path), "--run-name", "run", "--device", "cpu"]
    learn = ["--data.loss-on", "completion", "--train.max-steps", "1"]
    assert train.main([*SHORT, *started, *place, *learn]) == 0
    run = tmp_path / "run"
    assert (
        load_tokenizer(str(run / "model")).implementation.chat_template
        == small_tokenizers.CHATML
    )
    assert train.main(["--resume", str(run), "--train.max-steps", "2"]) == 0
    assert max(rows(run)) == 2 and rows(run)[2]["loss"] > 0


def test_a_reward_model_without_a_template_is_named(started, tmp_path, capsys):
    reward = tmp_path / "reward"
    hf_models.save(
        hf_models.make("llama-tied-grouped", "reward", max_position_embeddings=64),
        reward,
    )
    load_tokenizer("bytes").implementation.save_pretrained(reward)
    options = ["--algo", "critic", "--reward-model", str(reward)]
    assert train.main([*SHORT, *started, *options]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: example '0' of split 'train': messages need a")
    assert f"got '{reward}' without" in err
