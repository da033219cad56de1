"""MLflow that fails: nothing that happens to a store is fatal to the run."""

import contextlib
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import pytest

from shared.tracking import mlflow as mlflow_tracker
from shared.tracking.mlflow import MLflow
from shared.tracking.tracking import open_trackers, read_metrics
from tests import tracked
from tests.tracked import (
    client,
    config,
    history,
    log_losses,
    losses,
    run_id,
    the_warning,
)

killed, folder = tracked.killed, tracked.folder


def garbage(folder):
    (folder / "mlflow.db").write_bytes(b"not a database" * 1000)


def no_tables(folder):
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("DROP TABLE runs")


def torn(folder):
    with (folder / "mlflow.db").open("r+b") as file:
        file.truncate(20_000)


def is_a_folder(folder):
    (folder / "mlflow.db").unlink()
    (folder / "mlflow.db").mkdir()


def newer_schema(folder):
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of 2040'")
        connection.commit()


@pytest.mark.parametrize(
    "damage", [garbage, torn, no_tables, is_a_folder, newer_schema]
)
def test_a_broken_store_costs_one_warning(folder, damage, caplog, capfd, monkeypatch):
    damage(folder)
    waits = []  # MLflow tries ten times to open a store, for 100 s in all
    monkeypatch.setattr(time, "sleep", waits.append)
    run = folder / "new"
    run.mkdir()
    tracker = open_trackers(config(folder), run, resume_step=None)
    log_losses(tracker, range(25))
    assert tracker.ui_command == ""
    tracker.close("FINISHED")
    assert the_warning(caplog).startswith("MLflow is off for the rest of the run")
    assert capfd.readouterr() == ("", "")  # nothing from MLflow itself
    assert waits == []
    rows = read_metrics(run / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == losses(range(25))


def test_a_store_that_breaks_during_the_run_costs_one_warning(folder, caplog):
    run = folder / "new"
    run.mkdir()
    tracker = open_trackers(config(folder), run, resume_step=None)
    log_losses(tracker, range(5))
    garbage(folder)
    log_losses(tracker, range(5, 40))
    tracker.close("FINISHED")
    assert "MLflow is off" in the_warning(caplog)
    assert len(read_metrics(run / "metrics.jsonl")) == 40


def test_a_locked_store_costs_one_warning(folder, caplog, monkeypatch):
    monkeypatch.setattr(mlflow_tracker, "BUSY_SECONDS", 0.2)
    run = folder / "new"
    run.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker = open_trackers(config(folder), run, resume_step=None)
        log_losses(tracker, range(12))
        tracker.close("FINISHED")
        other.rollback()
    assert "database is locked" in the_warning(caplog)
    assert len(read_metrics(run / "metrics.jsonl")) == 12


def test_a_lock_that_is_never_released_costs_one_warning(folder, caplog, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(mlflow_tracker, "LOCK_SECONDS", 0.2)
    run = folder / "new"
    run.mkdir()
    with FileLock(folder / "mlflow.db.lock"):
        MLflow(config(folder), run).close("FINISHED")
    assert "mlflow.db.lock" in the_warning(caplog)


@contextlib.contextmanager
def without_write_rights(folder: Path, run: Path):
    """Nobody may write into the folder, not even root; the run folder stays open."""
    os.chmod(run, 0o777)
    os.chmod(folder, 0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        os.chmod(folder, 0o755)


@pytest.mark.parametrize("has_store", [True, False])
def test_a_read_only_folder_costs_one_warning(killed, caplog, has_store):
    if not hasattr(os, "geteuid"):
        pytest.skip("needs POSIX permissions")
    # Not below tmp_path, which other users may not enter.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        run = folder / "new"
        run.mkdir()
        if has_store:
            shutil.copy(killed / "mlflow.db", folder)
            os.chmod(folder / "mlflow.db", 0o444)
        with without_write_rights(folder, run):
            tracker = open_trackers(config(folder), run, resume_step=None)
            log_losses(tracker, range(12))
            tracker.close("FINISHED")
        assert "MLflow is off" in the_warning(caplog)
        assert len(read_metrics(run / "metrics.jsonl")) == 12
        kept = {"new", "mlflow.db"} if has_store else {"new"}
        assert {path.name for path in folder.iterdir()} == kept


def test_missing_mlflow_costs_one_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    run = tmp_path / "run"
    run.mkdir()
    tracker = open_trackers(config(tmp_path), run, resume_step=None)
    log_losses(tracker, range(3))
    tracker.close("FINISHED")
    assert "mlflow" in the_warning(caplog)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_interrupting_is_not_swallowed(folder, monkeypatch):
    monkeypatch.setattr(mlflow_tracker, "SEND_ROWS", 1)
    run = folder / "new"
    run.mkdir()
    tracker = MLflow(config(folder), run)
    log_losses(tracker, [0])  # opens it

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "log_batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tracker.log({"loss": 1.0}, 1)
    tracker.close("KILLED")
    assert history(folder, run, "loss") == [(0, 1.0), (1, 1.0)]
    assert client(folder).get_run(run_id(run)).info.status == "KILLED"
