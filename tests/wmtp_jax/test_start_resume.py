"""Runs that started from folders, whose folders are damaged, gone or changed."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from shared.config.layers import load_config
from shared.data.documents import load_splits
from shared.data.tokenizer import load_tokenizer
from tests.started import folder_of, refusal, run
from wmtp_jax import export, prepare, train

GPT2 = {"vocab_size": 259, "n_positions": 64}


@pytest.fixture
def base(tmp_path):
    return folder_of("gpt2", tmp_path / "base", **GPT2)


def cut_in_half(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rows_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    timed = ("seconds", "tokens_per_s", "tflops_per_s")
    return [
        {name: x for name, x in json.loads(line).items() if name not in timed}
        for line in lines
    ]


@pytest.mark.slow
def test_a_run_from_a_folder_goes_on_without_the_folder(base, tmp_path, monkeypatch):
    """Model, tokenizer and reference were read at the start; the checkpoint has it."""
    monkeypatch.chdir(tmp_path)
    options = ("--model", "base", "--algo", "rho1-weighted", "--heads", 2)
    whole = run(tmp_path / "runs", "whole", *options)
    short = run(tmp_path / "runs", "short", *options, "--train.max-steps", 5)
    shutil.rmtree(base)
    monkeypatch.chdir("/")
    argv = ["--resume", str(short), "--train.max-steps", "10"]
    assert train.main(argv) == 0
    # A constant schedule: where a run ends plays no part in what its steps compute.
    assert rows_of(short)[-1] == rows_of(whole)[-1]
    assert export.main([str(short), "--to", str(tmp_path / "copy")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert tokenizer.encode("a", add_special_tokens=False) == [100]


def test_a_run_is_not_gone_on_with_from_another_model(base, tmp_path, capsys):
    folder = run(tmp_path / "runs", "a", "--model", base, "--train.max-steps", 5)
    shutil.rmtree(base)
    folder_of("gpt2", base, **GPT2 | {"n_head": 2})
    capsys.readouterr()
    assert train.main(["--resume", str(folder), "--train.max-steps", "8"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "another model" in told[0]


@pytest.mark.parametrize("role", ["--model", "--reference", "--reward-model"])
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_damaged_model_is_found_before_anything_is_written(
    role, dry, base, tmp_path, capsys
):
    other = tmp_path / "other"
    if role == "--reward-model":
        assert prepare.main(f"--model {base} --kind reward --out {other}".split()) == 0
    else:
        folder_of("gpt2", other, **GPT2)
    cut_in_half(other)
    algo = {"--model": "baseline", "--reference": "rho1-weighted"}.get(role, "critic")
    start = () if role == "--model" else ("--model", base)
    told = refusal(capsys, *start, role, other, "--algo", algo, *dry,
                   "--output-dir", tmp_path / "runs")  # fmt: skip
    assert "model.safetensors" in told
    assert not (tmp_path / "runs").exists()


def test_a_reference_run_must_have_a_checkpoint(base, tmp_path, capsys):
    folder = run(tmp_path / "runs", "a", "--model", base, "--train.max-steps", 1)
    for checkpoint in (folder / "checkpoints").iterdir():
        shutil.rmtree(checkpoint)
    told = refusal(capsys, "--model", base, "--reference", folder, "--algo",
                   "rho1-weighted", "--output-dir", tmp_path / "more")  # fmt: skip
    assert "there must be a checkpoint" in told
    assert not (tmp_path / "more").exists()


@pytest.mark.slow
def test_signals_are_measured_again_when_the_reference_changes(base, tmp_path):
    other = folder_of("llama-tied-grouped", tmp_path / "other", vocab_size=259)
    options = ("--model", base, "--algo", "rho1-weighted", "--reference", other)
    one = run(tmp_path, "one", *options)
    again = run(tmp_path, "again", *options)
    shutil.rmtree(other)
    folder_of("llama3-rope", other, vocab_size=259)
    changed = run(tmp_path, "changed", *options)
    logs = [(folder / "train.log").read_text() for folder in (one, again, changed)]
    assert ["read from the cache" in log for log in logs] == [False, True, False]
    assert rows_of(one) == rows_of(again) != rows_of(changed)


@pytest.mark.slow
def test_a_reward_is_read_where_transformers_reads_it(base, tmp_path):
    """A model that pads with its eos passes over the eos that ends a document."""
    reward = folder_of("gpt2", tmp_path / "reward", "reward", **GPT2)
    config = json.loads((reward / "config.json").read_text())
    (reward / "config.json").write_text(json.dumps(config | {"pad_token_id": 1}))
    folder = run(tmp_path, "a", "--model", base, "--algo", "critic",
                 "--reward-model", reward, "--data.max-length", 64)  # fmt: skip
    mean = float((folder / "train.log").read_text().split("(mean ")[1].split(",")[0])
    judge = transformers.AutoModelForSequenceClassification.from_pretrained(reward)
    splits = load_splits(
        load_config(folder / "config.yaml").data,
        load_tokenizer("bytes"),
        splits=["train"],
    )
    with torch.no_grad():
        scores = [
            judge(torch.tensor(document.tokens[None]).long()).logits.item()
            for document in splits["train"].documents
        ]
    assert mean == pytest.approx(np.mean(scores), abs=6e-4)


def test_paths_are_kept_so_that_they_are_found_from_anywhere(
    base, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = run("runs", "a", "--model", "base", "--train.max-steps", 1)
    assert load_config(folder / "config.yaml").model.name == str(base)
