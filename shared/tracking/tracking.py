"""Where the metrics of a run go: JSON lines, MLflow, TensorBoard, or nowhere.

`metrics.jsonl` in the run folder is the record: one object a step, exact numbers. The
others are views of it for people; they may fail at any time, which costs one warning
and never the run.
"""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

from shared.config.fields import Config
from shared.files import write_whole
from shared.json_text import parse
from shared.tracking.mlflow import MLflow, may_fail

Metrics = dict[str, float | int]
NOT_FINITE = ("inf", "-inf", "nan")


class JsonLines:
    """Appends `{"step": n, **metrics}` to a file, one line a step, at once.

    Numbers read back equal bit by bit. JSON has no word for infinities and NaN: they
    are written as the strings "inf", "-inf" and "nan", and `read_metrics` turns those
    into floats again.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("a", encoding="utf-8")

    def go_back(self, step: int) -> None:
        self._file.close()
        cut_back(self._path, step)
        self._file = self._path.open("a", encoding="utf-8")

    def log(self, metrics: Metrics, step: int) -> None:
        row = {"step": step} | {name: _json_value(x) for name, x in metrics.items()}
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self, status: str) -> None:
        self._file.close()


def _json_value(value: float | int) -> float | int | str:
    if isinstance(value, int):
        return value
    value = float(value)
    return value if math.isfinite(value) else str(value)


def read_metrics(path: Path) -> list[Metrics]:
    """The rows of a metrics file; a last line that is still half-written is left out.

    Raises:
      ValueError: if any other line is not a JSON object of numbers with a whole
        number `step`.
    """
    return [
        {name: float(x) if isinstance(x, str) else x for name, x in row.items()}
        for _, row in _parsed_lines(path)
    ]


def cut_back(path: Path, step: int) -> None:
    """Drops the rows after `step`, and a half-written last line, from a metrics file.

    What is kept stays the same byte by byte. The file is replaced as a whole: a crash
    leaves either the old one or the new one.

    Raises:
      ValueError: as `read_metrics`; the file is left as it was.
    """
    kept = [line + b"\n" for line, row in _parsed_lines(path) if row["step"] <= step]
    write_whole(path, b"".join(kept))


def _parsed_lines(path: Path) -> Iterator[tuple[bytes, dict]]:
    # What follows the last line end is "" in a whole file. Otherwise the writer was
    # stopped there; a full object that only lacks its line end has lost nothing.
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = parse(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and type(row.get("step")) is int and _are_numbers(row):
            yield line, row
        elif number < len(lines):
            raise ValueError(
                f"{path} line {number} must be a JSON object of numbers with a whole "
                f"number 'step', got {line[:60].decode(errors='replace')!r}"
            )


def _are_numbers(row: dict) -> bool:
    return all(type(x) in (int, float) or x in NOT_FINITE for x in row.values())


class TensorBoard:
    """Event files in a folder, written by tensorboardX (needs neither torch nor TF).

    On resume the steps after `resume_step` of the earlier session are hidden.
    """

    on = True

    @may_fail
    def __init__(self, folder: Path, *, resume_step: int | None = None):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError(
                "tracking.tensorboard needs the package tensorboardX "
                "(pip install tensorboardX)"
            ) from None
        purge = None if resume_step is None else resume_step + 1
        self._folder, self._make = str(folder), SummaryWriter
        self._writer = SummaryWriter(logdir=str(folder), purge_step=purge)

    @may_fail
    def go_back(self, step: int) -> None:
        self._writer.close()
        self._writer = self._make(logdir=self._folder, purge_step=step + 1)

    @may_fail
    def log(self, metrics: Metrics, step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    @may_fail
    def close(self, status: str) -> None:
        self._writer.close()


class Several:
    """What the training loop knows about tracking: every tracker in turn, or none."""

    def __init__(self, *trackers: "JsonLines | MLflow | TensorBoard"):
        self.trackers = trackers

    def log(self, metrics: Metrics, step: int) -> None:
        """Records what one step measured; steps only grow."""
        for tracker in self.trackers:
            tracker.log(metrics, step)

    def go_back(self, step: int) -> None:
        """Drops what was recorded after a step, which comes again otherwise."""
        for tracker in self.trackers:
            tracker.go_back(step)

    def keep_file(self, path: Path, to: str) -> None:
        """Shows a file of the run in MLflow, too; again where it has changed.

        Args:
          to: folder of artifacts.
        """
        for tracker in self.trackers:
            if isinstance(tracker, MLflow):
                tracker.keep_file(path, to)

    def close(self, status: str) -> None:
        """Ends the records with status FINISHED, FAILED or KILLED."""
        with contextlib.ExitStack() as stack:  # one that fails leaves none open
            for tracker in self.trackers:
                stack.callback(tracker.close, status)

    @property
    def ui_command(self) -> str:
        """The line that opens MLflow on this run; empty where MLflow is off."""
        return "".join(x.ui_command for x in self.trackers if isinstance(x, MLflow))


def open_trackers(cfg: Config, run_folder: Path, *, resume_step: int | None) -> Several:
    """Opens what `cfg.tracking` asks for.

    Args:
      cfg: the config of the run.
      run_folder: its folder, which exists.
      resume_step: None for a new run, else the step of the checkpoint that the run
        goes on from; rows after it are dropped from `metrics.jsonl`.

    Raises:
      ValueError: if a new run finds a `metrics.jsonl`, or a resumed one a broken one.
      OSError: if `metrics.jsonl` cannot be written.
    """
    if cfg.tracking.to == "none":
        return Several()
    path = run_folder / "metrics.jsonl"
    if path.exists():
        if resume_step is None:
            raise ValueError(f"a new run must have a folder of its own, got {path}")
        cut_back(path, resume_step)
    trackers: list[JsonLines | MLflow | TensorBoard] = [JsonLines(path)]
    if cfg.tracking.to == "mlflow":
        earlier = None if resume_step is None else read_metrics(path)
        trackers.append(MLflow(cfg, run_folder, earlier=earlier))
    if cfg.tracking.tensorboard:
        folder = run_folder / "tensorboard"
        trackers.append(TensorBoard(folder, resume_step=resume_step))
    return Several(*trackers)
