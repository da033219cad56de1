"""MLflow's address of a store in a folder of any name."""

import shlex
import subprocess

import pytest

from shared.tracking.mlflow import MLflow
from shared.tracking.tracking import open_trackers
from tests import tracked
from tests.tracked import config, log_losses, losses, run_id

killed = tracked.killed  # SQLAlchemy's warnings are over once it is made
# All that an address could take for its own; `%2F` would be a folder more.
NAMES = ["a%2Fb%20c d?e=1&f#g", "é'q;r@s:t+u%"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_files_land_in_a_folder_of_any_name(name, killed, tmp_path, caplog):
    from mlflow import MlflowClient

    folder, run = tmp_path / name, tmp_path / name / "run"
    run.mkdir(parents=True)
    tracker = open_trackers(config(folder), run, resume_step=None)
    log_losses(tracker, range(12))
    tracker.close("FINISHED")
    assert caplog.records == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
    names = {"run", "mlflow.db", "mlflow.db.lock"}
    assert {path.name for path in folder.iterdir()} == names

    # The line as a shell takes it, and MLflow's own client what it names.
    shell = ["bash", "-c", f'set -- {tracker.ui_command}; printf %s "$4"']
    uri = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    assert uri == shlex.split(tracker.ui_command)[3]
    client = MlflowClient(uri)
    points = client.get_metric_history(run_id(run), "loss")
    assert sorted((x.step, x.value) for x in points) == losses(range(12))
    client.log_text(run_id(run), "kept", "note.txt")
    (note,) = folder.rglob("note.txt")
    assert note.is_relative_to(folder / "mlartifacts")
    assert [path.name for path in tmp_path.iterdir()] == [name]

    resumed = MLflow(config(folder), run, earlier=[{"step": 12, "loss": 0.5}])
    resumed.close("FINISHED")
    assert len(client.get_metric_history(run_id(run), "loss")) == 13
