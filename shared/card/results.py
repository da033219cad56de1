"""Results of `evaluate` that are of exactly the weights in a folder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.card.markdown import code, table
from shared.data.hub import SOURCES
from shared.evaluation.results.kept import FILES, read_results, read_settings
from shared.evaluation.results.of_problems import ProblemResult
from shared.evaluation.results.table import NOTE, table_row
from shared.huggingface.folder import files_digest

COLUMNS = (
    "task",
    "prompt",
    "problems",
    "samples",
    "pass@1",
    "bits per byte",
    "shared with training",
)


def results_table(run: Path, folder: Path) -> str:
    """One row for each file in RUN/evaluated that is of the folder's model; or nothing.

    A run goes on and is evaluated again, so that steps and names cannot tell; digests
    of the weights do.
    """
    found = list(_evaluated(run))
    if not found:
        return ""
    digest = files_digest(folder)
    rows = [_row(*x) for x in found if x[0][FILES] == digest]
    if not rows:
        return ""
    return f"{table(COLUMNS, rows)}\n\n{NOTE}"


def _evaluated(run: Path) -> Iterator[tuple[dict[str, Any], list[ProblemResult]]]:
    """Settings and results of every whole file that says which weights it is of."""
    for path in sorted((run / "evaluated").rglob("*.jsonl")):
        try:
            settings = read_settings(path)
            if settings.get(FILES) and (results := read_results(path)):
                yield settings, results
        except ValueError:  # somebody has changed it: nothing to be told of a model
            continue


def _row(settings: dict[str, Any], results: list[ProblemResult]) -> list[object]:
    # Without other k, `table_row` is task, problems, pass@1, bits, and more.
    _, problems, passed, bits, *_ = table_row("", results, [])
    source, split = str(settings["source"]), str(settings["split"])
    name = source if source in SOURCES else Path(source).name
    task = f"{settings['task']}, {split} split of {code(name)}"
    samples = settings.get("samples") or "-"
    temperature = (settings.get("sampling") or {}).get("temperature")
    if temperature is not None and samples != "-":
        samples = f"{samples} at temperature {temperature:g}"
    shared = settings.get("contaminated")
    form = code(settings["form"]) if settings.get("form") else "-"
    return [
        task if settings["task"] != split else f"{split} split",
        form,
        problems,
        samples,
        passed,
        bits,
        "-" if shared is None else f"{shared} documents",
    ]
