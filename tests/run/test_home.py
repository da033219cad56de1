"""`~` is the user's home in every path, also where no shell has read it."""

import json
from pathlib import Path

import pytest

from shared.config.layers import load_config
from tests import trained
from tests.command_lines import error, recipe, run
from tests.refused import mbpp_rows, write_rows
from wmtp_jax import export, prepare
from wmtp_jax import train as jax_train
from wmtp_torch_mps import train as torch_train

PATHS = {
    "model.name": "--model",
    "data.source": "--data",
    "data.tokenizer": "--data.tokenizer",
    "data.check_against": "--data.check-against",
    "reference.model": "--reference",
    "critic.reward_model": "--reward-model",
    "output_dir": "--output-dir",
}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home that is not the working folder, with a model in `~/here`."""
    home = tmp_path / "home"
    (home / "here").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "work")
    return home


def value(config, name):
    group, _, field = name.rpartition(".")
    found = getattr(getattr(config, group) if group else config, field)
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", PATHS)
def test_every_path_of_the_config(name, home):
    made = prepare.main("--model smoke --random-init --out ~/here".split())
    assert made == 0 and (home / "here" / "config.json").is_file()
    option, there = PATHS[name], str(home / "here")
    assert value(run(f"{option}=~/here").config, name) == there
    group, _, field = name.rpartition(".")
    given = "[~/here]" if name == "data.check_against" else "~/here"
    text = f"{group}: {{{field}: {given}}}" if group else f"{field}: {given}"
    recipe(home, text)
    for layer in ("--recipe", "--config"):
        assert value(run(f"{layer}=~/r.yaml").config, name) == there
    assert list(Path.cwd().iterdir()) == []


def test_an_output_dir_that_is_not_there_yet_and_the_home_of_nobody(home):
    assert run("--output-dir=~/new/runs").config.output_dir == str(home / "new/runs")
    assert "home of nobody" in error("--output-dir=~nobody-such/runs")


@pytest.mark.parametrize(
    "trainer",
    [pytest.param(jax_train, id="jax", marks=pytest.mark.slow), torch_train],
)
def test_a_run_in_the_home_folder(trainer, home):
    for split in ("train", "validation", "reference"):
        write_rows(home / "data" / f"{split}.jsonl", *mbpp_rows(8))
    argv = [*trained.MODEL, *trained.PACE, "--train.max-steps", "1", "--data", "~/data"]
    assert trainer.main([*argv, "--output-dir", "~/runs", "--run-name", "a"]) == 0
    folder = home / "runs" / "a"
    assert load_config(folder / "config.yaml").output_dir == str(home / "runs")
    assert trainer.main(["--resume=~/runs/a", "--train.max-steps", "2"]) == 0
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    if trainer is jax_train:
        assert export.main(["~/runs/a", "--to=~/out"]) == 0
        assert (home / "out" / "config.json").is_file()
    assert list(Path.cwd().iterdir()) == []
