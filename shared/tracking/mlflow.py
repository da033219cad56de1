"""MLflow as a view of a run: a SQLite store at one fixed place, made once.

The store lies beside the run folders: `mlflow.db`, with `mlartifacts/` for files.
MLflow makes its tables by a long chain of migrations that survives neither a second
process nor a kill, so they are made under a file lock, under another name, and renamed
when whole. Whatever MLflow does, the run goes on: `may_fail`.
"""

import contextlib
import json
import logging
import os
import re
import shlex
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock

from shared.config.fields import Config
from shared.config.layers import flatten

LOGGER = logging.getLogger("wmtp")

LOCK_SECONDS = 120  # making a store takes seconds, a minute on a very busy machine
BUSY_SECONDS = 10.0  # that another run may be writing
SEND_ROWS = 10  # together
SEND_SECONDS = 30.0  # a slow run still shows up in time
MAX_METRICS = 1000  # that MLflow takes in one batch


def may_fail(method: Callable[..., None]) -> Callable[..., None]:
    """Has a tracker go off, with one warning, where a method of it would raise.

    A tracker that is off (`on` is False) does nothing any more.
    """

    @wraps(method)
    def guarded(self: Any, *arguments: Any, **options: Any) -> None:
        if not self.on:
            return
        try:
            method(self, *arguments, **options)
        except Exception as error:
            self.on = False
            why = " ".join(str(error).split()).partition(" [SQL:")[0] or "no message"
            LOGGER.warning(
                "%s is off for the rest of the run, which goes on: %s: %s",
                type(self).__name__,
                type(error).__name__,
                why if len(why) <= 300 else why[:300] + " ...",
            )

    return guarded


class MLflow:
    """One MLflow run per run folder; its id is kept in `mlflow_run.json` there.

    Rows are buffered and sent together. MLflow is imported, and its store opened, when
    the first are sent: that takes seconds, for which no first step has to wait. A run
    that is resumed goes on in the same MLflow run: steps that MLflow has are not sent
    again, and steps that a killed process had in its buffer are sent from `earlier`.

    Args:
      cfg: becomes the parameters, with dots in the names.
      run_folder: gives the run its name.
      earlier: None for a new run, else the rows of `metrics.jsonl` up to the step that
        the run goes on from.
      params: other parameters than those of `cfg`, for what is no training.
    """

    on = True

    def __init__(
        self,
        cfg: Config,
        run_folder: Path,
        *,
        earlier: Iterable[dict[str, float | int]] | None = None,
        params: Mapping[str, object] | None = None,
    ):
        # A run that is resumed from elsewhere, or was moved, has an `output_dir` that
        # leads nowhere near it; the folder its run folder lies in is then meant.
        self.folder, parents = (
            Path(cfg.output_dir).resolve(),
            run_folder.resolve().parents,
        )
        if self.folder not in parents:
            self.folder = parents[0]
        self._cfg, self._run_folder = cfg, run_folder
        self._params = flatten(cfg) if params is None else params
        self._started = time.time_ns() // 1_000_000
        self._resumed, self._run_id = earlier is not None, ""
        self._last_step = -1  # that the store has
        self._buffer: list[list[tuple[str, float, int, int]]] = []  # rows of metrics
        self._files: dict[Path, str] = {}
        self._sent = time.monotonic()
        for row in earlier or ():
            metrics = dict(row)
            self.log(metrics, int(metrics.pop("step")))

    @may_fail
    def log(self, metrics: dict[str, float | int], step: int) -> None:
        now = time.time_ns() // 1_000_000
        row = [(name, float(x), now, step) for name, x in metrics.items()]
        # A batch is one transaction: whole rows only, so that the largest step in the
        # store tells what is missing.
        if sum(map(len, self._buffer)) + len(row) > MAX_METRICS:
            self._send()
        self._buffer.append(row)
        late = time.monotonic() - self._sent >= SEND_SECONDS
        if len(self._buffer) >= SEND_ROWS or late:
            self._send()

    @may_fail
    def go_back(self, step: int) -> None:
        """Drops the rows after a step, sent or not: others come in their place."""
        self._buffer = [row for row in self._buffer if row and row[0][-1] <= step]
        self._send()
        _drop_after(self.folder / "mlflow.db", self._run_id, step)
        self._last_step = min(self._last_step, step)

    @may_fail
    def keep_file(self, path: Path, to: str) -> None:
        """Has a file go into the artifacts with the next rows that are sent."""
        self._files[path] = to

    @may_fail
    def close(self, status: str) -> None:
        self._send()
        self._client.set_terminated(self._run_id, status)

    @may_fail
    def add(
        self, metrics: Mapping[str, float], step: int, files: Iterable[Path], to: str
    ) -> None:
        """Adds what was found of a run beside its training, which may still go on.

        Args:
          metrics: names with letters, digits, `_-./`.
          files: become artifacts in the folder `to`.
        """
        with _quiet():
            self._open(self._cfg, self._run_folder, resumed=True, running=False)
            from mlflow.entities import Metric

            now = time.time_ns() // 1_000_000
            found = [Metric(name, float(x), now, step) for name, x in metrics.items()]
            self._client.log_batch(self._run_id, metrics=found)
            for file in files:
                self._client.log_artifact(self._run_id, str(file), to)
            if self._is_new:
                self._client.set_terminated(self._run_id, "FINISHED")

    @may_fail
    def nest(self, children: Iterable[Path]) -> None:
        """Has MLflow show the runs of other folders below this one.

        Args:
          children: run folders in the same store; one that is not there is left out.
        """
        with _quiet():
            self._open(self._cfg, self._run_folder, resumed=True, running=False)
            for folder in children:
                child = self._known_run(folder / "mlflow_run.json")
                if child is not None:
                    self._client.set_tag(child, "mlflow.parentRunId", self._run_id)

    @property
    def ui_command(self) -> str:
        """The line for a shell that opens MLflow's pages; empty where MLflow is off."""
        if not self.on:
            return ""
        uri = shlex.quote(_uri(self.folder / "mlflow.db"))
        return f"mlflow ui --backend-store-uri {uri}"

    def _send(self) -> None:
        if not self._run_id:
            # Only here: each time, other warnings of the loop would appear again.
            with _quiet():
                self._open(self._cfg, self._run_folder, resumed=self._resumed)
        from mlflow.entities import Metric

        found = [Metric(*x) for x in chain(*self._buffer) if x[-1] > self._last_step]
        if found:
            self._client.log_batch(self._run_id, metrics=found)
        for path, to in self._files.items():
            self._client.log_artifact(self._run_id, str(path), to)
        self._buffer, self._files, self._sent = [], {}, time.monotonic()

    def _open(
        self, cfg: Config, run_folder: Path, *, resumed: bool, running: bool = True
    ) -> None:
        database = self.folder / "mlflow.db"
        _check_database(database)  # before the import, which takes seconds
        _quiet_environment()
        from mlflow import MlflowClient

        # Its errors come with a traceback of a hundred lines, and as exceptions too.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        id_file = run_folder / "mlflow_run.json"
        with FileLock(f"{database}.lock", timeout=LOCK_SECONDS):
            if not database.exists() or database.stat().st_size == 0:
                _make_store(database)
            self._client = MlflowClient(_uri(database))
            experiment_id = self._experiment(cfg.tracking.experiment)
        run_id = self._known_run(id_file) if resumed else None
        self._is_new = run_id is None
        if run_id is None:
            run_id = self._new_run(cfg, run_folder.resolve().name, experiment_id)
            id_file.write_text(json.dumps({"run_id": run_id}) + "\n", encoding="utf-8")
        elif running:
            self._client.update_run(run_id, status="RUNNING")
        self._run_id = run_id
        self._last_step = _largest_step(database, run_id)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return found.experiment_id
        # Else MLflow would put artifacts below the folder that the run started in.
        artifacts = (self.folder / "mlartifacts").as_uri()
        return self._client.create_experiment(name, artifact_location=artifacts)

    def _new_run(self, cfg: Config, name: str, experiment_id: str) -> str:
        from mlflow.entities import Param

        tags, started = _tags(cfg.tags), self._started
        run = self._client.create_run(experiment_id, started, tags, name)
        params = [Param(name, str(x)[:6000]) for name, x in self._params.items()]
        self._client.log_batch(run.info.run_id, params=params)
        return run.info.run_id

    def _known_run(self, id_file: Path) -> str | None:
        from mlflow.exceptions import MlflowException

        try:
            run_id = json.loads(id_file.read_text(encoding="utf-8"))["run_id"]
            run = self._client.get_run(run_id)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # it ran without MLflow, or was killed while writing
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None  # the store was deleted or the run folder moved to another
            raise
        return run_id if run.info.lifecycle_stage == "active" else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What MLflow's own code is warned about is nothing that a user can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _tags(text: str) -> dict[str, str]:
    """One tag per label, to filter by, and one with all of them, to read."""
    # MLflow refuses a tag whose name has other characters.
    names = [re.sub(r"[^\w .-]", "_", label).strip(" .") for label in text.split(",")]
    tags = {name[:250]: "true" for name in names if name}
    return tags | {"tags": text} if tags else {}


def _uri(database: Path) -> str:
    """Its address, where `%`, `?` and `#` of a folder's name are none of its own."""
    from sqlalchemy.engine import URL

    uri = URL.create("sqlite", database=str(database)).render_as_string()
    # Of an address `sqlite:///` MLflow makes the folder, without reading its quotes.
    quoted = uri != f"sqlite:///{database}"
    return uri.replace("sqlite:", "sqlite+pysqlite:", 1) if quoted else uri


def _check_database(database: Path) -> None:
    """Raises now where MLflow would retry, with messages, for minutes."""
    if database.exists():
        with contextlib.closing(sqlite3.connect(database, BUSY_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()


def _make_store(database: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = database.with_name(database.name + ".part")
    for leftover in (part, part.with_name(part.name + "-journal")):
        leftover.unlink(missing_ok=True)
    artifacts = (database.parent / "mlartifacts").as_uri()
    SqlAlchemyStore(_uri(part), artifacts).engine.dispose()
    os.replace(part, database)


def _largest_step(database: Path, run_id: str) -> int:
    # The client can only list the whole history, metric by metric.
    query = "SELECT MAX(step) FROM latest_metrics WHERE run_uuid = ?"
    with contextlib.closing(sqlite3.connect(database, BUSY_SECONDS)) as connection:
        (step,) = connection.execute(query, (run_id,)).fetchone()
    return -1 if step is None else step


def _drop_after(database: Path, run_id: str, step: int) -> None:
    # The client can only add. The newest of a metric is written with its next row.
    with contextlib.closing(sqlite3.connect(database, BUSY_SECONDS)) as connection:
        for table in ("metrics", "latest_metrics"):
            query = f"DELETE FROM {table} WHERE run_uuid = ? AND step > ?"
            connection.execute(query, (run_id, step))
        connection.commit()


def _quiet_environment() -> None:
    # MLflow reports its use over the network unless told otherwise before the import.
    if "MLFLOW_DISABLE_TELEMETRY" not in os.environ:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        os.environ.setdefault("DO_NOT_TRACK", "true")
