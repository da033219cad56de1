"""A comparison in MLflow: one run above those of its members, with report and plots."""

import math

from shared.comparison.grid.found import Found, run_folder
from shared.config.fields import Config
from shared.config.layers import load_config
from shared.evaluation.tracked import metrics_of
from shared.tracking.mlflow import MLflow

FOLDER = "comparison"  # beside the runs, with what MLflow knows this one by
FILES = ("report.html", "report.md", "results.jsonl", "plan.json")


def track(found: Found) -> str:
    """Adds what is there to the comparison's own MLflow run, above its members'.

    Returns:
      The line that opens MLflow's pages; empty where the runs go nowhere.
    """
    runs = [
        run
        for outcome in found.outcomes
        if (run := run_folder(found.folder, outcome.member)).is_dir()
    ]
    tracked = [run for run in runs if (run / "mlflow_run.json").is_file()]
    if not tracked:
        return ""
    home = found.folder / "runs" / FOLDER
    home.mkdir(parents=True, exist_ok=True)
    like = load_config(tracked[0] / "config.yaml").tracking
    cfg = Config(output_dir=str(home.parent), tracking=like)
    budget = found.plan.budget
    params = {
        "model": found.plan.model,
        "data": found.plan.data,
        "budget": f"{budget.amount:g} {budget.kind}, preparing {budget.preparing}",
        "arms": ", ".join(arm.name for arm in found.plan.arms),
    }
    mlflow = MLflow(cfg, home, earlier=(), params=params)
    files = [file for name in FILES if (file := found.folder / name).is_file()]
    mlflow.add(_means(found), 0, files, FOLDER)
    mlflow.add({}, 0, sorted((found.folder / "plots").glob("*.png")), "plots")
    mlflow.nest(tracked)
    return mlflow.ui_command


def _means(found: Found) -> dict[str, float]:
    """Means over the seeds of each arm, by names that MLflow groups."""
    metrics: dict[str, float] = {}
    for arm in found.plan.arms:
        values: dict[str, list[float]] = {}
        for outcome in found.of(arm.name):
            for task, results in outcome.results.items():
                ks = found.plan.ks if any(result.n for result in results) else ()
                for name, x in metrics_of(task, results, list(ks)).items():
                    values.setdefault(name, []).append(x)
        for name, of in values.items():
            mean = math.fsum(of) / len(of)
            metrics[f"{arm.name.replace('+', '.')}/{name.partition('/')[2]}"] = mean
    return metrics
