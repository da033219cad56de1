"""What `evaluate` shows at its end, and where its results stand."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.data.tokenizer import Tokenizer
from shared.evaluation import asked as command
from shared.evaluation.results import table
from shared.evaluation.results.kept import (
    KeptResults,
    Settings,
    note_files,
    read_results,
    read_settings,
)
from shared.evaluation.results.of_problems import ProblemResult
from shared.evaluation.tasks.solutions import Measure
from shared.evaluation.tasks.validation import load_validation, measure_document
from shared.evaluation.tracked import metrics_of, track
from shared.state.run_folder import run_of
from shared.tracking import console
from shared.tracking.console import Progress


class Report:
    """Results of tasks, in the order in which they were found."""

    def __init__(
        self, folder: Path, model: str, ks: Sequence[int], against: Path | None
    ) -> None:
        """Makes the folder.

        Args:
          ks: of pass@k, for tasks that programs were written for.
          against: another folder of results, to be compared problem by problem.

        Raises:
          ValueError: if `against` is no folder.
        """
        if against is not None and not against.is_dir():
            raise ValueError(f"--against must be a folder of results, got {against}")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.model, self.ks, self.against = folder, model, ks, against
        self._files = command.files_of(model)
        self._found: dict[str, tuple[str, Sequence[ProblemResult], Settings]] = {}

    @contextmanager
    def keeping(
        self, task: str, name: str, settings: Settings, unit: str = "problem"
    ) -> Iterator[tuple[KeptResults, Callable[[int], None]]]:
        """What is kept of a task, and what is told how many are; finished at the end.

        Args:
          name: what its rows are called.
          unit: what one result is of.

        Raises:
          ValueError: as `KeptResults`.
        """
        path = self.folder / f"{task}.jsonl"
        kept = KeptResults(path, settings, "--to")
        number, start = settings.num_problems, len(kept.results)
        with Progress(number, task, start=start, unit=unit) as progress:
            yield kept, progress.update
        kept.finish()
        note_files(path, self._files)
        self._found[task] = name, kept.results, settings

    def show(self) -> None:
        """The tables: tasks, heads, differences to other results; contamination."""
        rows, heads = [], []
        for name, results, _ in self._found.values():
            ks = self.ks if any(result.n for result in results) else []
            row = table.table_row(name, results, ks)
            missing = len(table.table_columns(self.ks)) - len(row)
            rows.append([*row[:3], *["-"] * missing, *row[3:]])
            heads += table.head_rows(name, results)
        console.table(self.model, table.table_columns(self.ks), rows)
        if heads:
            console.table("heads", table.HEAD_COLUMNS, heads)
        if self.against is not None:
            self._show_differences(self.against)
        console.say(table.NOTE)
        if self.ks:
            console.say(table.SHOWN_NOTE)
        for task, (_, _, settings) in self._found.items():
            if settings.contaminated:
                console.say(
                    f"contamination: {settings.contaminated} documents that the run "
                    f"was trained on share text with these problems of {task}"
                )

    def _show_differences(self, other: Path) -> None:
        """Problem by problem, of the tasks that both folders have."""
        rows = []
        for task, (name, results, settings) in self._found.items():
            file = other / f"{task}.jsonl"
            if not file.is_file():
                continue
            before = read_settings(file).get("prompts_digest")
            if before not in (None, settings.prompts_digest):
                console.say(f"warning: {file} is of other prompts than {name}")
            rows.append(table.difference_row(name, results, read_results(file), 1))
        if not rows:
            console.say(f"warning: {other} has none of these tasks to be compared with")
            return
        console.table(f"difference to {other}", table.DIFFERENCE_COLUMNS, rows)

    def track(self, tracking: str) -> None:
        """Adds all to MLflow, where that is wanted; shows how to look at it."""
        metrics: dict[str, float] = {}
        files, params = [], {"model": self.model}
        for task, (_, results, settings) in self._found.items():
            metrics |= metrics_of(task, results, self.ks if settings.samples else [])
            files += sorted(self.folder.glob(f"{task}.*json*"))
            params["model_digest"] = settings.model_digest
        run = run_of(self.model)
        if ui := track(tracking, run, self.model, metrics, files, params):
            console.say(f"see them: {ui}")


def keep_validation(
    report: Report,
    source: str,
    tokenizer: Tokenizer,
    most: int,
    rows: int,
    measure: Measure,
    known: Mapping[str, Any],
) -> None:
    """Measures the validation split document by document into the report.

    Args:
      source: another than that of the model's run; empty leaves it.
      most: tokens that the model reads.
      rows: of its embedding.
      known: of the settings: `model`, `model_digest`, `dtype`, `batch_size` and
        `versions`.
    """
    run, task = run_of(report.model), command.VALIDATION
    found = load_validation(run, source, tokenizer, most, rows)
    documents = [x for x in found.split.documents if x.target.any()]
    settings = Settings(
        task=task,
        source=found.source,
        split=task,
        num_problems=len(documents),
        prompts_digest=found.split.digest,
        sampling={},
        limits={},
        **known,
    )
    with report.keeping(task, task, settings, "document") as (kept, told):
        for document in documents[len(kept.results) :]:
            kept.add(measure_document(document, tokenizer, measure))
            told(len(kept.results))
