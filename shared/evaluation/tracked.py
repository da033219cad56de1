"""Results of an evaluation in MLflow: a few numbers, and the files that hold all."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from shared.config.fields import Config, TrackingConfig
from shared.config.layers import load_config
from shared.evaluation.results.of_problems import (
    ProblemResult,
    bits_per_byte,
    nll_per_head,
    pass_values,
)
from shared.state.checkpoints import steps_in
from shared.state.run_folder import named_step
from shared.tracking.mlflow import MLflow

FOLDER = "evaluated"  # of artifacts, and what the names of metrics begin with


def metrics_of(
    task: str, results: Sequence[ProblemResult], ks: Sequence[int]
) -> dict[str, float]:
    """What is told of one task, by the names that MLflow groups (`evaluated/TASK/...`).

    Means over problems: `pass_at_K`, `bits_per_byte`; over targets `nll_head_K`, nats.
    """
    found: dict[str, float] = {}
    if any(result.n for result in results):
        for k in dict.fromkeys((1, *ks)):
            found[f"pass_at_{k}"] = _mean(pass_values(results, k))
        found["timed_out"] = sum(result.timed_out for result in results)
    if all(result.bits is not None for result in results):
        found["bits_per_byte"] = _mean(bits_per_byte(results))
    for k, nll in enumerate(nll_per_head(results)):
        found[f"nll_head_{k}"] = nll
    return {f"{FOLDER}/{task}/{name}": x for name, x in found.items()}


def track(
    tracking: str,
    run: Path | None,
    model: str,
    metrics: Mapping[str, float],
    files: Iterable[Path],
    params: Mapping[str, object],
) -> str:
    """Adds results to the run's own MLflow run; without a run makes one of `params`.

    Args:
      tracking: `auto` adds where the run itself goes to MLflow; `mlflow` always.
      run: that the model is of.
      params: of a model that is of no run.
      files: of one folder, beside which the store of such a model is.

    Returns:
      The line that opens MLflow's pages; empty where nothing was added.
    """
    files = list(files)
    if tracking == "none" or not files or (tracking == "auto" and run is None):
        return ""
    if run is None:
        folder = files[0].parent
        cfg = Config(output_dir=str(folder.parent), tracking=TrackingConfig())
        mlflow, step = MLflow(cfg, folder, earlier=(), params=params), 0
    else:
        cfg = load_config(run / "config.yaml")
        if tracking == "auto" and cfg.tracking.to != "mlflow":
            return ""
        newest = max(steps_in(run / "checkpoints"), default=0)
        step = named_step(Path(model).expanduser()) or newest
        mlflow = MLflow(cfg, run, earlier=())
    mlflow.add(metrics, step, files, FOLDER if run is not None else "")
    return mlflow.ui_command


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
