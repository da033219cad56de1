"""Tracking: exact JSON lines; a real MLflow store that nothing can make fatal.

Making a store takes seconds: two processes that start at once and are then killed make
one for the whole module, and the tests work on copies of it.
"""

import contextlib
import json
import logging
import math
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared import mlflow_tracker
from shared.config import Config, TrackingConfig
from shared.mlflow_tracker import MLflow, flat_config, ui_command
from shared.tracking import (
    JsonLines,
    Several,
    TensorBoard,
    cut_back,
    open_trackers,
    read_metrics,
)

ROOT = Path(__file__).parents[1]

# Waits for its twin, so that both find no store; dies with 3 rows still in the buffer.
KILLED_RUN = """
import os, signal, sys, time
from pathlib import Path
import mlflow  # takes seconds: not part of the race
from shared.config import Config
from shared.tracking import open_trackers
folder, name = Path(sys.argv[1]), sys.argv[2]
run = folder / name
run.mkdir()
while len([p for p in folder.iterdir() if p.is_dir()]) < 2:
    time.sleep(0.01)
cfg = Config(output_dir=str(folder), run_name=name, tags="mini, lr=1e-3,")
tracker = open_trackers(cfg, run, resume_step=None)
for step in range(23):
    tracker.log({"loss": 1 / (step + 1), "rows": step}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with a store and the runs `a` and `b`, both killed after step 22."""
    folder = tmp_path_factory.mktemp("killed")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED_RUN, str(folder), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for name in "ab"
    ]
    # While they start. SQLAlchemy finds fault with MLflow's tables, which pytest would
    # make an error, and the tables stay broken for the rest of the process.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert (output, process.returncode) == ("", -signal.SIGKILL)
    return folder


@pytest.fixture
def folder(killed, tmp_path):
    """A copy of that folder, for one test alone."""
    return Path(shutil.copytree(killed, tmp_path / "runs"))


def config(folder: Path, **changes) -> Config:
    return replace(Config(output_dir=str(folder)), **changes)


def client(folder: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def run_id(run: Path) -> str:
    return json.loads((run / "mlflow_run.json").read_text())["run_id"]


def history(folder: Path, run: Path, name: str) -> list[tuple[int, float]]:
    points = client(folder).get_metric_history(run_id(run), name)
    return sorted((point.step, point.value) for point in points)


def losses(steps) -> list[tuple[int, float]]:
    return [(step, 1 / (step + 1)) for step in steps]


def log_losses(tracker, steps) -> None:
    for step, loss in losses(steps):
        tracker.log({"loss": loss, "rows": step}, step)


def the_warning(caplog) -> str:
    """The one line that was logged, by anyone, at warning level or above."""
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(lines) == 1, lines
    assert "\n" not in lines[0]
    return lines[0]


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
    code = "import sys, shared.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# MLflow


def test_two_processes_at_once_make_one_store(killed):
    names = {"a", "b", "mlflow.db", "mlflow.db.lock"}
    assert {path.name for path in killed.iterdir()} == names
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
    assert found.data.params == flat_config(cfg)
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


def test_rows_are_sent_in_batches_and_at_the_end(folder):
    run = folder / "new"
    run.mkdir()
    tracker = MLflow(config(folder), run, every=4)
    for steps, stored in ((range(3), 0), (range(3, 4), 4), (range(4, 9), 8)):
        log_losses(tracker, steps)
        assert len(history(folder, run, "loss")) == stored
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
    assert ui_command(Path(".")) == line
    tracker = open_trackers(config(Path(".")), Path("a"), resume_step=22)
    assert tracker.ui_command == line
    tracker.close("FINISHED")
    spaced = shlex.split(ui_command(tmp_path / "my runs"))
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


# MLflow that fails


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
    run = folder / "new"
    run.mkdir()
    tracker = MLflow(config(folder), run, every=1)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracker._client, "log_batch", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tracker.log({"loss": 1.0}, 1)
    tracker.close("KILLED")
    assert history(folder, run, "loss") == [(1, 1.0)]
    assert client(folder).get_run(run_id(run)).info.status == "KILLED"


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
