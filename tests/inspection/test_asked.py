"""`inspect`: which example, which run beside it, texts and their signals, errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wmtp_jax.inspect
import wmtp_jax.train
import wmtp_torch_mps.inspect
import wmtp_torch_mps.train
from shared.config.layers import load_config
from shared.data.documents import load_examples
from tests.trained import STEPS

JAX = (wmtp_jax.train, wmtp_jax.inspect)
TORCH = (wmtp_torch_mps.train, wmtp_torch_mps.inspect)
BACKENDS = [pytest.param(JAX, id="jax"), pytest.param(TORCH, id="torch")]


def inspect(backend, run, *words, to):
    return backend[1].main(["--model", str(run), "--to", str(to), *words])


def page_of(folder):
    """What the only page of a folder knows."""
    (file,) = folder.iterdir()
    (found,) = re.findall(r'id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    return json.loads(found)


def numbers_of(page, run=0):
    (frame,) = page["frames"]
    (runs,) = frame["of"].values()
    return frame["step"], runs[run]


def assert_close(one, other):
    """Numbers of two frames, as far as their digits go."""
    for name in ("weight", "nll"):
        for ours, theirs in zip(one[name], other[name], strict=True):
            assert [x is None for x in ours] == [x is None for x in theirs]
            pairs = [np.array(x, float) for x in (ours, theirs)]
            np.testing.assert_allclose(*pairs, rtol=1e-2, atol=1e-3)
    assert one["numbers"].keys() == other["numbers"].keys()
    for name, ours in one["numbers"].items():
        pairs = [np.array(x, float) for x in (ours, other["numbers"][name])]
        np.testing.assert_allclose(*pairs, rtol=2e-2, atol=1e-2, err_msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_shows_what_the_run_kept(backend, whole_run, tmp_path, capsys):
    """The model of the last checkpoint is that of the last evaluation."""
    run = whole_run(backend[0], "critic")
    assert inspect(backend, run, "--example", "1", to=tmp_path / "a") == 0
    told = capsys.readouterr().out
    assert f"step {STEPS}: validation 1: validation/2, head 1\n" in told
    assert str(tmp_path / "a") in told and "▇" in told
    kept = (run / "inspected" / "training.jsonl").read_text().splitlines()[-1]
    step, numbers = numbers_of(page_of(tmp_path / "a"))
    assert step == json.loads(kept)["step"] == STEPS
    assert_close(numbers, json.loads(kept)["of"]["validation/2"][0])


def test_train_examples_older_steps_and_a_run_beside(whole_run, tmp_path, capsys):
    run, other = (whole_run(JAX[0], name) for name in ("critic", "baseline"))
    words = ["--example", "train:train/3", "--step", "6", "--head", "0"]
    beside = ["--beside", str(other / "checkpoints" / "9")]
    assert inspect(JAX, run, *words, *beside, to=tmp_path / "a") == 0
    told = capsys.readouterr().out
    assert "step 6: train 2: train/3, head 0" in told and "head 1\n" not in told
    page = page_of(tmp_path / "a")
    assert [x["name"] for x in page["runs"]] == ["whole, step 6", "whole, step 9"]
    step, first = numbers_of(page)
    second = numbers_of(page, 1)[1]
    assert step == 6 and set(second["weight"][0][1:]) == {1}
    assert first["numbers"].keys() >= {"reward", "value", "td_error", "score"}


def text_of_example(run, index):
    cfg = load_config(run / "config.yaml")
    found = load_examples(cfg.data)["validation"][index]
    return found["prompt"] + found["completion"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_text_is_weighed_as_the_same_example(backend, whole_run, tmp_path):
    """Its reward rests on a reference trained again: as good as the one of the run."""
    run = whole_run(backend[0], "critic")
    file = tmp_path / "one.py"
    file.write_text(text_of_example(run, 0))
    assert inspect(backend, run, "--example", "0", to=tmp_path / "a") == 0
    words = ["--text", str(file), "--train-reference"]
    assert inspect(backend, run, *words, to=tmp_path / "b") == 0
    pages = [page_of(tmp_path / name) for name in "ab"]
    assert pages[0]["examples"][0]["ids"] == pages[1]["examples"][0]["ids"]
    assert pages[1]["examples"][0]["note"].startswith("cut at data.max_length = 32")
    own, of_text = (numbers_of(page)[1] for page in pages)
    assert_close(own, of_text)
    assert set(own["numbers"]["reward"][1:]) == set(of_text["numbers"]["reward"][1:])


def test_a_text_needs_no_signal_of_a_baseline(whole_run, tmp_path):
    (tmp_path / "a.txt").write_text("print('a text')")
    run = whole_run(JAX[0], "baseline")
    words = ["--text", str(tmp_path / "a.txt")]
    assert inspect(JAX, run, *words, to=tmp_path / "page") == 0
    assert "".join(page_of(tmp_path / "page")["examples"][0]["texts"]) == (
        "print('a text')</s>"
    )


REFUSED = {
    "--example 99": "or an index from 0 to 23, got '99'",
    "--example train:nothing": "an id of the train split ('train/1' is its first)",
    "--text FILE --example 1": "--text must stand without --example",
    "--text FILE": "--train-reference trains it again",
    "--text nowhere.txt": "got 'nowhere.txt': No such file",
    "--text EMPTY": "which is empty",
    "--text BYTES": "whose byte 1 is none",
    "--head 2": "--head must be 0 to 1, got 2",
    "--step 5": "there must be a checkpoint of step 5",
    "--beside nowhere": "--beside must name a run folder",
    "--beside TORCH": "which wmtp_torch_mps has written (python -m wmtp_torch_mps.insp",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_shown_is_one_line(words, whole_run, tmp_path, capsys):
    run, files = whole_run(JAX[0], "critic"), {}
    for name, content in {"FILE": b"x", "EMPTY": b"", "BYTES": b"a\xff"}.items():
        files[name] = str(tmp_path / name)
        (tmp_path / name).write_bytes(content)
    if "TORCH" in words:
        files["TORCH"] = str(whole_run(TORCH[0], "critic"))
    argv = [files.get(word, word) for word in words.split()]
    assert inspect(JAX, run, *argv, to=tmp_path / "page") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert REFUSED[words] in said
    assert not (tmp_path / "page").exists()


def test_a_place_that_cannot_be_written_is_refused(whole_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    run = whole_run(JAX[0], "baseline")
    assert inspect(JAX, run, to=tmp_path / "file") == 2
    assert "--to must be a folder that can be written" in capsys.readouterr().err


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["train", "inspect"])
def test_a_command_can_be_run_by_its_path(backend, name):
    """Its folder is then the first, where `inspect` is not the standard library's."""
    file = Path(backend[0].__file__).with_name(f"{name}.py")
    environment = os.environ | {"PYTHONPATH": str(file.parents[1])}
    command = [sys.executable, str(file), "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
