"""Bad input: one clear line, exit code 2, and nothing left behind.

Both trainers are given it, and must answer in the same words.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import refused
from tests.refused import SMALL, error_line, everything
from wmtp_jax.train import main
from wmtp_torch_mps.train import main as torch_main

folder = refused.folder
pytestmark = pytest.mark.usefixtures("folder")

# Options, and what the line must say: what is required, and what it got.
OPTIONS = {
    "unknown algorithm": (
        ("--algo", "ppo"),
        ("--algo", "baseline", "rho1-weighted", "rho1-tokenskip", "critic", "'ppo'"),
    ),
    "unknown option": (
        ("--weighting.temprature", "1"),
        ("--weighting.temprature", "did you mean", "--weighting.temperature"),
    ),
    "missing recipe": (("--recipe", "nowhere.yaml"), ("nowhere.yaml",)),
    "missing machine config": (("--config", "nowhere.yaml"), ("nowhere.yaml",)),
    "unknown model": (
        ("--model", "huge"),
        ("model.name", "presets", "smoke", "'huge'"),
    ),
    "home of nobody": (("--model", "~nosuchuser/x"), ("model.name", "presets")),
    "missing data": (("--data", "nowhere"), ("data.source", "minis", "'nowhere'")),
    "missing data file": (("--data", "no.jsonl"), ("readable file", "no.jsonl")),
    "missing tokenizer": (
        ("--data.tokenizer", "nowhere"),
        ("data.tokenizer", "bytes", "nowhere"),
    ),
    "as many heads as positions": (
        ("--heads", "32"),
        ("heads.count", "less than data.max_length = 32", "got 32"),
    ),
    "temperature 0": (
        ("--weighting.temperature", "0"),
        ("weighting.temperature", "> 0", "got 0"),
    ),
    "negative temperature": (
        ("--weighting.temperature", "-0.5"),
        ("weighting.temperature", "> 0", "got -0.5"),
    ),
    "skip everything": (
        ("--weighting.skip-fraction", "1.0"),
        ("weighting.skip_fraction", "[0, 1)", "got 1.0"),
    ),
    "skip less than nothing": (
        ("--weighting.skip-fraction", "-0.1"),
        ("weighting.skip_fraction", "[0, 1)", "got -0.1"),
    ),
    "control of a uniform rule": (
        ("--weighting.control", "shuffle"),
        ("weighting.control", "soft or skip", "got weighting.rule = 'uniform'"),
    ),
    "run name outside output_dir": (
        ("--run-name", "../elsewhere"),
        ("run_name", "folder name", "'../elsewhere'"),
    ),
    "resume of a missing run": (
        ("--resume", "nowhere"),
        ("--resume", "run folder", "'nowhere'"),
    ),
    "resume of a missing checkpoint's run": (
        ("--resume", "nowhere/checkpoints/3"),
        ("--resume", "RUN/checkpoints/STEP", "'nowhere/checkpoints/3'"),
    ),
    "missing reference": (
        ("--algo", "rho1-weighted", "--reference", "nowhere"),
        ("reference.model", "a run", "'nowhere'"),
    ),
    "short position table": (
        ("--data.max-length", "256"),
        ("data.max_length", "at most model.max_positions = 128", "got 256"),
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_wrong_option_is_answered_with_one_line(case, capsys):
    argv, says = OPTIONS[case]
    line = error_line(capsys, *argv)
    for part in says:
        assert part in line


# What a trainer's own device cannot do.
DEVICES = {
    "cudnn without a GPU": (
        main,
        ("--machine.attention", "cudnn", "--machine.dtype", "bfloat16"),
        ("machine.attention", "GPU", "'cpu'"),
    ),
    "cudnn in float32": (
        main,
        ("--machine.attention", "cudnn"),
        ("machine.dtype", "bfloat16", "'float32'"),
    ),
    "first moment in bfloat16 in torch": (
        torch_main,
        ("--machine.first-moment", "bfloat16"),
        ("machine.first_moment must be float32", "wmtp_torch_mps", "'bfloat16'"),
    ),
    "cudnn in torch": (
        torch_main,
        ("--machine.attention", "cudnn", "--machine.dtype", "bfloat16"),
        (
            "machine.attention",
            "auto, eager, sdpa or blocks in wmtp_torch_mps",
            "'cudnn'",
        ),
    ),
    "a CUDA GPU in torch": (
        torch_main,
        ("--device", "gpu"),
        ("machine.device", "auto, cpu or mps in wmtp_torch_mps", "'gpu'"),
    ),
    "sdpa in JAX": (
        main,
        ("--machine.attention", "sdpa"),
        ("machine.attention", "wmtp_jax", "'sdpa'"),
    ),
}


@pytest.mark.parametrize("case", DEVICES)
def test_a_device_that_cannot_is_answered_with_one_line(case, capsys):
    trainer, argv, says = DEVICES[case]
    line = error_line(capsys, *argv, mains=[trainer])
    for part in says:
        assert part in line


RECIPES = {
    "unknown key": (
        "weighting:\n  temprature: 1\n",
        ("mine.yaml", "weighting.temprature", "temperature"),
    ),
    "unknown group": (
        "weights:\n  floor: 0\n",
        ("mine.yaml", "unknown key weights", "weighting"),
    ),
    "wrong type": (
        "train:\n  epochs: many\n",
        ("mine.yaml", "train.epochs", "a whole number", "'many'"),
    ),
    "no YAML": ("train: [1\n", ("mine.yaml", "YAML", "line 2")),
    # A range is checked once the layers are one config, so the field says where.
    "out of range": ("optimizer:\n  lr: -1e-3\n", ("optimizer.lr", "> 0", "-0.001")),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_wrong_recipe_is_named_with_the_key(case, capsys):
    text, says = RECIPES[case]
    Path("mine.yaml").write_text(text)
    line = error_line(capsys, "--recipe", "mine.yaml")
    for part in says:
        assert part in line


def test_an_existing_run_is_never_overwritten(capsys):
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/notes.txt").write_text("keep")
    line = error_line(capsys, "--run-name", "mine")
    assert "run_name must be new" in line and "'mine'" in line and "--resume" in line


@pytest.mark.parametrize("output", ["taken", "taken/runs"])
def test_an_output_dir_that_is_no_folder_is_named(output, capsys):
    Path("taken").write_text("a file")
    line = error_line(capsys, "--output-dir", output)
    assert "output_dir must be a folder" in line and repr(output) in line


def test_a_traceback_is_shown_only_with_verbose(capsys):
    line = error_line(capsys, "--data", "nowhere")
    assert main([*SMALL, "--data", "nowhere", "--verbose"]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("Traceback (most recent call last)")
    assert err.endswith(line)


def test_the_process_itself_says_one_line_and_exits_with_2():
    done = subprocess.run(
        [sys.executable, "-m", "wmtp_jax.train", "--heads", "0"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "heads.count" in done.stderr and ">= 1" in done.stderr


def test_a_dry_run_prints_what_would_run_and_writes_nothing(folder, capsys):
    assert main([*SMALL, "--algo", "rho1-tokenskip", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "algo: rho1-tokenskip" in out and "max_length: 32" in out  # the config
    assert "parameters" in out and "trunk" in out and "heads" in out
    assert "[1, 4, 32]" in out and "memory" in out and "MiB" in out
    assert err == "" and everything(folder) == {}


def test_a_dry_run_finds_the_same_mistakes(capsys):
    line = error_line(capsys, "--dry-run", "--data", "nowhere")
    assert "data.source" in line
