"""MLflow: a real store, which every step reaches once, whatever kills the run."""

import json
import math
import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from shared.config.fields import TrackingConfig
from shared.config.layers import flatten
from shared.tracking import mlflow as mlflow_tracker
from shared.tracking.mlflow import MLflow
from shared.tracking.tracking import open_trackers, read_metrics
from tests import tracked
from tests.tracked import client, config, history, log_losses, losses, run_id

killed, folder = tracked.killed, tracked.folder


def test_two_processes_at_once_make_one_store(killed):
    names = {"a", "b", "mlflow.db", "mlflow.db.lock"}
    # A copy of the store, made for another test, keeps its artifacts here.
    assert {path.name for path in killed.iterdir()} - {"mlartifacts"} == names
    for name in "ab":
        run = client(killed).get_run(run_id(killed / name))
        assert (run.info.run_name, run.info.status) == (name, "RUNNING")
        assert history(killed, killed / name, "loss") == losses(range(20))
        assert len(read_metrics(killed / name / "metrics.jsonl")) == 23


def test_what_was_logged_is_read_back(folder):
    run = folder / "new run"
    run.mkdir()
    cfg = config(folder, tags="mini, lr=1e-3,", seed=3)
    cfg = replace(cfg, tracking=TrackingConfig(experiment="arms"))
    tracker = MLflow(cfg, run)
    values = [0.1 + 0.2, math.nan, math.inf, -1e300]
    for step, value in enumerate(values):
        tracker.log({"loss": value, "rows": 2**40}, step)
    tracker.close("FAILED")

    found = client(folder).get_run(run_id(run))
    assert (found.info.run_name, found.info.status) == ("new run", "FAILED")
    assert found.info.end_time >= found.info.start_time
    assert found.data.params == {name: str(x) for name, x in flatten(cfg).items()}
    assert found.data.params["seed"] == "3" and found.data.params["heads.count"] == "4"
    labels = {k: v for k, v in found.data.tags.items() if not k.startswith("mlflow.")}
    assert labels == {"tags": "mini, lr=1e-3,", "mini": "true", "lr_1e-3": "true"}
    points = client(folder).get_metric_history(run_id(run), "loss")
    values_back = [p.value for p in sorted(points, key=lambda p: p.step)]
    assert values_back[0] == values[0] and values_back[3] == values[3]
    assert math.isnan(values_back[1]) and values_back[2] > 1e308
    assert history(folder, run, "rows") == [(step, 2.0**40) for step in range(4)]
    experiment = client(folder).get_experiment_by_name("arms")
    assert experiment.artifact_location == (folder / "mlartifacts").as_uri()


def test_rows_are_sent_in_batches_and_at_the_end(folder, monkeypatch):
    monkeypatch.setattr(mlflow_tracker, "SEND_ROWS", 4)
    run = folder / "new"
    run.mkdir()
    tracker = MLflow(config(folder), run)
    for steps, stored in ((range(3), 0), (range(3, 4), 4), (range(4, 9), 8)):
        log_losses(tracker, steps)
        # Nothing is opened before the first rows are sent.
        assert (run / "mlflow_run.json").exists() == bool(stored)
        assert not stored or len(history(folder, run, "loss")) == stored
    tracker.close("FINISHED")
    assert history(folder, run, "loss") == losses(range(9))


def test_wide_rows_are_not_torn_between_batches(folder):
    run = folder / "new"
    run.mkdir()
    tracker = MLflow(config(folder), run)
    wide = {f"m{i}": 1.0 for i in range(400)}
    for step in range(3):
        tracker.log(wide, step)
    assert [len(history(folder, run, f"m{i}")) for i in (0, 399)] == [2, 2]
    tracker.close("FINISHED")
    assert [len(history(folder, run, f"m{i}")) for i in (0, 399)] == [3, 3]


def test_a_slow_run_shows_up_before_ten_steps(folder, monkeypatch):
    monkeypatch.setattr(mlflow_tracker, "SEND_SECONDS", 0.0)
    run = folder / "new"
    run.mkdir()
    log_losses(MLflow(config(folder), run), [1])
    assert history(folder, run, "loss") == losses([1])


@pytest.mark.parametrize("checkpoint", [21, 19, 10])
def test_resume_after_kill_has_every_step_once(folder, checkpoint):
    """The checkpoint lies after, at and before the last step that reached MLflow."""
    run = folder / "a"
    before = run_id(run)
    client(folder).set_terminated(before, "FAILED")
    tracker = open_trackers(config(folder), run, resume_step=checkpoint)
    assert run_id(run) == before
    assert client(folder).get_run(before).info.status == "RUNNING"
    log_losses(tracker, range(checkpoint + 1, 31))
    tracker.close("FINISHED")

    assert client(folder).get_run(before).info.status == "FINISHED"
    for name, values in (("loss", losses(range(31))), ("rows", None)):
        points = history(folder, run, name)
        assert points == (values or [(step, float(step)) for step in range(31)])
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == [*range(31)]
    assert history(folder, folder / "b", "loss") == losses(range(20))


@pytest.mark.parametrize("lost", ["id", "half id", "deleted run", "other store"])
def test_resume_without_the_mlflow_run_sends_all_rows_to_a_new_one(folder, lost):
    run = folder / "a"
    before = run_id(run)
    if lost == "id":
        (run / "mlflow_run.json").unlink()
    elif lost == "half id":
        (run / "mlflow_run.json").write_text('{"run_i')
    elif lost == "deleted run":
        client(folder).delete_run(before)
    else:
        (run / "mlflow_run.json").write_text(json.dumps({"run_id": "0" * 32}))
    tracker = open_trackers(config(folder), run, resume_step=21)
    log_losses(tracker, [22])
    tracker.close("FINISHED")
    assert run_id(run) != before
    assert history(folder, run, "loss") == losses(range(23))


def test_resume_from_elsewhere_finds_the_store_beside_the_run(folder, tmp_path):
    moved = tmp_path / "moved"
    folder.rename(moved)
    run = moved / "a"
    tracker = open_trackers(config(tmp_path / "elsewhere"), run, resume_step=22)
    tracker.close("FINISHED")
    assert history(moved, run, "loss") == losses(range(23))
    assert tracker.ui_command.endswith(f"sqlite:///{moved}/mlflow.db")
    assert not (tmp_path / "elsewhere").exists()


def test_ui_command(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    line = f"mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db"
    assert line.split("sqlite:")[1].startswith("////")
    tracker = open_trackers(config(Path(".")), Path("a"), resume_step=22)
    assert tracker.ui_command == line
    tracker.close("FINISHED")
    tracker = MLflow.__new__(MLflow)
    tracker.folder = tmp_path / "my runs"
    spaced = shlex.split(tracker.ui_command)
    assert spaced[3] == f"sqlite:///{tmp_path}/my runs/mlflow.db"


def test_half_made_store_is_made_again_and_a_whole_one_is_kept(tmp_path):
    """A kill while the tables are made leaves only the temporary files."""
    for leftover in ("mlflow.db.part", "mlflow.db.part-journal", "mlflow.db"):
        (tmp_path / leftover).write_bytes(b"half" if "part" in leftover else b"")
    for name in ("one", "two"):
        run = tmp_path / name
        run.mkdir()
        tracker = MLflow(config(tmp_path), run)
        log_losses(tracker, range(3))
        tracker.close("FINISHED")
    for name in ("one", "two"):
        assert history(tmp_path, tmp_path / name, "loss") == losses(range(3))
    names = {"one", "two", "mlflow.db", "mlflow.db.lock"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_telemetry_is_off_unless_the_user_said_otherwise(monkeypatch):
    names = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    for given, wanted in (
        ((None, None), ("true", "true")),
        (("false", None), ("false", None)),
        ((None, "0"), ("true", "0")),
    ):
        for name, value in zip(names, given, strict=True):
            monkeypatch.setenv(name, "")  # so that it is put back at the end
            monkeypatch.delenv(name)
            if value is not None:
                monkeypatch.setenv(name, value)
        mlflow_tracker._quiet_environment()
        assert tuple(map(os.environ.get, names)) == wanted


def test_a_file_of_a_run_goes_with_its_rows(folder, tmp_path):
    """The newest of it, once what was logged is sent."""
    page = tmp_path / "page.html"
    tracker = MLflow(config(folder), folder / "a", earlier=())
    for text in ("old", "new"):
        page.write_text(text)
        tracker.keep_file(page, "inspected")
        log_losses(tracker, [23])
    tracker.close("FINISHED")
    kept = client(folder).download_artifacts(
        run_id(folder / "a"), "inspected/page.html", str(tmp_path)
    )
    assert Path(kept).read_text() == "new"


def test_a_roll_back_takes_rows_back(folder, monkeypatch):
    """Those that were sent, and those that were not; a row after it comes anew."""
    monkeypatch.setattr(mlflow_tracker, "SEND_ROWS", 4)
    run = folder / "back"
    run.mkdir()
    tracker = MLflow(config(folder), run)
    log_losses(tracker, range(6))
    tracker.log({"only_here": 1.0}, 6)
    tracker.go_back(2)
    assert history(folder, run, "loss") == losses(range(3))
    tracker.log({"loss": 7.5}, 3)
    tracker.close("FINISHED")
    assert history(folder, run, "loss") == [*losses(range(3)), (3, 7.5)]
    found = client(folder).get_run(run_id(run))
    assert found.data.metrics["loss"] == 7.5 and "only_here" not in found.data.metrics
