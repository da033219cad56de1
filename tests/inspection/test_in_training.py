"""The page that training keeps: which steps, which examples, and that it may fail."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest

import wmtp_jax.train
import wmtp_torch_mps.train
from shared.config.layers import build
from shared.data.batches import eval_batches
from shared.data.documents import load_splits
from shared.data.tokenizer import load_tokenizer
from shared.inspection import in_training
from shared.inspection.in_training import (
    MOST,
    TrainingPage,
    read_lines,
    rows_of,
    thinned,
)
from shared.run.peers import ALONE
from tests.trained import EVAL_EVERY, STEPS

BACKENDS = [
    pytest.param(wmtp_jax.train, id="jax"),
    pytest.param(wmtp_torch_mps.train, id="torch"),
]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_keeps_a_page(backend, whole_run):
    folder = whole_run(backend, "critic") / "inspected"
    lines = map(json.loads, (folder / "training.jsonl").read_text().splitlines())
    frames = {line["step"]: line["of"] for line in lines}
    assert [*frames] == [0, EVAL_EVERY, STEPS]
    page = (folder / "training.html").read_text()
    for of in frames.values():
        assert [*of] == ["validation/1", "validation/2"]
        for name, (numbers,) in of.items():
            assert name in page
            weight_T = [x for x in numbers["weight"][0] if x is not None]
            assert len(weight_T) == 31 and 0.8 < np.mean(weight_T) < 1.2
    assert frames[0] != frames[STEPS]
    assert {path.name for path in folder.iterdir()} == {
        "training.html", "training.jsonl"
    }  # fmt: skip


def lines(steps):
    return {step: f"{step}" for step in steps}


@pytest.mark.parametrize("stop", [50, 330, 640, 990])
def test_kept_steps_are_those_of_a_run_that_was_never_stopped(stop):
    whole, stopped = {}, {}
    for step in range(0, 1001, 10):
        whole = thinned({**whole, **lines([step])}, 10)
        stopped = thinned({**stopped, **lines([step])}, 10)
        assert len(whole) <= MOST + 1 and max(whole) == step
        if step == stop:  # killed later, it goes on from a checkpoint before
            stopped = {x: line for x, line in stopped.items() if x <= stop - 30}
            for again in range(stop - 20, stop + 1, 10):
                stopped = thinned({**stopped, **lines([again])}, 10)
    assert whole == stopped and [*whole] == [*range(0, 1001, 40)]


def test_an_end_between_two_steps_is_kept_until_a_later_one():
    kept = thinned(lines([0, 50, 100, 120]), 50)
    assert [*kept] == [0, 50, 100, 120]
    assert [*thinned({**kept, **lines([150])}, 50)] == [0, 50, 100, 150]


def test_lines_that_are_not_ours_are_left(tmp_path, caplog):
    file = tmp_path / "training.jsonl"
    assert read_lines(file, 5) == {}
    file.write_text('{"step":0,"of":{}}\n{"step":6,"of":{}}\n')
    assert read_lines(file, 5) == {0: '{"step":0,"of":{}}'}
    with caplog.at_level(logging.WARNING, "wmtp"):
        file.write_text('{"step":0,"of"')
        assert read_lines(file, 5) == {}
    assert "is made anew" in caplog.text


def loop_of(folder, **options):
    """As much of a loop as a page reads, on the minis."""
    cfg = build({"data.max_length": 64, "train.eval_every": 5} | options)
    tokenizer = load_tokenizer("bytes")
    splits = load_splits(cfg.data, tokenizer, splits=("validation",))
    validation = eval_batches(
        splits["validation"], {}, max_length=64, batch_size=8, seed=0
    )
    kept = []
    return SimpleNamespace(
        cfg=cfg,
        run=SimpleNamespace(
            path=folder, inputs=SimpleNamespace(splits=splits, tokenizer=tokenizer)
        ),
        validation=validation,
        is_new=True,
        start=0,
        peers=ALONE,
        tracker=SimpleNamespace(keep_file=lambda *given: kept.append(given)),
        kept=kept,
    )


def results_of(loop, nll=2.0):
    K = loop.cfg.heads.count
    shapes = [(*batch.tokens_BL.shape, K) for batch in loop.validation]
    return [{"nll_BLK": np.full(shape, nll, np.float32)} for shape in shapes]


def test_examples_are_found_in_their_batches(tmp_path):
    loop = loop_of(tmp_path, **{"train.inspect": 5})
    split = loop.run.inputs.splits["validation"]
    places = rows_of(split, loop.cfg)
    assert [*places] == [0, 1, 2, 3, 4]
    for index, (batch, row) in places.items():
        tokens = split.documents[index].tokens
        found = loop.validation[batch].tokens_BL[row, : len(tokens)]
        np.testing.assert_array_equal(found, tokens)


def test_none_are_kept_where_none_is_asked_for(tmp_path):
    loop = loop_of(tmp_path, **{"train.inspect": 0})
    TrainingPage(loop).add(0, results_of(loop))
    assert not [*tmp_path.iterdir()] and not loop.kept


def test_a_disk_that_is_full_ends_no_run(tmp_path, monkeypatch, caplog):
    loop = loop_of(tmp_path)
    page = TrainingPage(loop)
    page.add(0, results_of(loop))
    before = {
        path.name: path.read_text() for path in (tmp_path / "inspected").iterdir()
    }
    assert loop.kept == [(tmp_path / "inspected" / "training.html", "inspected")]

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(in_training, "write_text", full)
    with caplog.at_level(logging.WARNING, "wmtp"):
        page.add(5, results_of(loop))
        page.add(10, results_of(loop))
    assert caplog.text.count("TrainingPage is off for the rest of the run") == 1
    after = {path.name: path.read_text() for path in (tmp_path / "inspected").iterdir()}
    assert after == before


def test_a_model_that_is_not_finite_is_passed_over(tmp_path, caplog):
    """The loop refuses it right after, in its own words."""
    loop = loop_of(tmp_path)
    page = TrainingPage(loop)
    page.add(0, results_of(loop, np.nan))
    assert not (tmp_path / "inspected").exists() and not caplog.text
