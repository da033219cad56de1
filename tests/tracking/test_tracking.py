"""Tracking: exact JSON lines, what is opened and closed, TensorBoard."""

import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from shared.config.fields import TrackingConfig
from shared.tracking.tracking import (
    JsonLines,
    Several,
    TensorBoard,
    cut_back,
    open_trackers,
    read_metrics,
)
from tests.tracked import ROOT, config, log_losses, losses, the_warning

# JSON lines


def test_json_lines_read_back_bit_by_bit(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonLines(path)
    values = {"loss": 0.1 + 0.2, "tiny": 5e-324, "third": 1 / 3, "rows": 2**60}
    tracker.log(values, 7)
    assert read_metrics(path) == [{"step": 7, **values}]  # before it is closed
    tracker.close("FINISHED")
    assert path.read_text().startswith('{"step": 7, "loss": 0.30000000000000004, ')


def test_json_lines_stay_json_when_numbers_are_not_finite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonLines(path)
    tracker.log({"a": math.nan, "b": math.inf, "c": -math.inf}, 1)
    tracker.close("FAILED")

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"step": 1, "a": "nan", "b": "inf", "c": "-inf"}
    (row,) = read_metrics(path)
    assert math.isnan(row["a"]) and (row["b"], row["c"]) == (math.inf, -math.inf)


def test_cut_back_keeps_the_bytes_and_drops_the_half_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = b'{"step": 1, "loss": 2.50}\n{"loss":1, "step": 2}\n'
    path.write_bytes(kept + b'{"step": 3, "loss": 1.0}\n{"step": 2, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    cut_back(path, 2)
    assert path.read_bytes() == kept
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    cut_back(path, 2)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("end", [b"", b"{", b"12", b"\0\0\0", b'{"step": 2', b"\xff"])
def test_a_row_that_was_stopped_anywhere_is_dropped(tmp_path, end):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + end)
    cut_back(path, 9)
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_row_that_only_lacks_its_line_end_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}')
    cut_back(path, 2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("line", [b'{"step": 1', b"[1]", b'{"loss": 1}', b""])
def test_a_broken_line_in_the_middle_is_named_and_left_alone(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 1}\n' + line + b'\n{"step": 2}\n'
    path.write_bytes(content)
    for call in (read_metrics, lambda path: cut_back(path, 1)):
        with pytest.raises(ValueError, match=r"metrics.jsonl line 2 must be a JSON"):
            call(path)
    assert path.read_bytes() == content


def test_cut_back_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n')

    def full_disk(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        cut_back(path, 1)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


# What is opened


def test_none_writes_nothing(tmp_path):
    cfg = config(tmp_path, tracking=TrackingConfig(to="none", tensorboard=True))
    tracker = open_trackers(cfg, tmp_path, resume_step=None)
    tracker.log({"loss": 1.0}, 1)
    tracker.close("FINISHED")
    assert list(tmp_path.iterdir()) == [] and tracker.ui_command == ""


def test_jsonl_goes_on_after_the_checkpoint(tmp_path):
    cfg = config(tmp_path, tracking=TrackingConfig(to="jsonl"))
    for resume_step, steps in ((None, range(1, 6)), (3, range(4, 8))):
        tracker = open_trackers(cfg, tmp_path, resume_step=resume_step)
        log_losses(tracker, steps)
        tracker.close("KILLED")
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == losses(range(1, 8))


def test_a_new_run_does_not_write_into_an_old_one(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    cfg = config(tmp_path, tracking=TrackingConfig(to="jsonl"))
    with pytest.raises(ValueError, match="a new run must have a folder of its own"):
        open_trackers(cfg, tmp_path, resume_step=None)


def test_close_reaches_every_tracker():
    closed = []

    def fails(status):
        raise OSError("disk full")

    trackers = [SimpleNamespace(close=closed.append), SimpleNamespace(close=fails)]
    with pytest.raises(OSError, match="disk full"):
        Several(*trackers, trackers[0]).close("FAILED")
    assert closed == ["FAILED", "FAILED"]


def test_mlflow_is_imported_only_when_it_is_asked_for():
    code = "import sys, shared.tracking.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# TensorBoard


def test_tensorboard_missing_names_the_package(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    cfg = config(tmp_path, tracking=TrackingConfig(to="jsonl", tensorboard=True))
    tracker = open_trackers(cfg, tmp_path, resume_step=None)
    tracker.log({"loss": 1.0}, 1)
    tracker.close("FINISHED")
    assert "pip install tensorboardX" in the_warning(caplog)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_hides_the_steps_after_the_checkpoint(tmp_path, monkeypatch):
    calls = []

    class SummaryWriter:
        def __init__(self, logdir, purge_step):
            calls.append((logdir, purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def close(self):
            calls.append("closed")

    monkeypatch.setitem(
        sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter)
    )
    tracker = TensorBoard(tmp_path, resume_step=20)
    tracker.log({"loss": 2.5}, 21)
    tracker.close("FINISHED")
    assert calls == [(str(tmp_path), 21), ("loss", 2.5, 21), "closed"]


def test_tensorboard_writes_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    tracker = TensorBoard(tmp_path / "tensorboard")
    tracker.log({"loss": 2.5}, 1)
    tracker.close("FINISHED")
    assert tracker.on
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in file.read_bytes()
