"""`train.inspect`: what a few validation examples weigh, at each evaluation of a run.

    inspected/training.jsonl    a line for each step that is kept (`rows.frame`)
    inspected/training.html     the page that is made of them

Both are written whole each time, the page from the lines, so that a run which was
killed leaves nothing half-written, and one that goes on keeps what it had. An example
costs some tens of milliseconds on the host: the model has been asked already.
"""

import logging
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.data.batches import eval_rows
from shared.data.documents import Split
from shared.files import write_text
from shared.inspection.page import page
from shared.inspection.rows import Shown, frame, told_of_run
from shared.inspection.texts import texts_of
from shared.inspection.tokens import Weighed, weigh_row
from shared.json_text import parse
from shared.run.loop import Loop
from shared.tracking.mlflow import may_fail

log = logging.getLogger("wmtp")
FOLDER = "inspected"
MOST = 32  # steps of a page, beside the last
LEAD = (
    "What each target token of a few validation examples weighed at each evaluation of "
    "this run, as a step would have weighed it then (dropout aside)."
)


class TrainingPage:
    """The page of a run that trains; it may fail at any time, which ends no run.

    Steps are kept at even distances, every second one going where they become more than
    `MOST`; the last one always stays.

    Args:
      loop: of the run; steps after the one it goes on from are forgotten.
    """

    on = True

    @may_fail
    def __init__(self, loop: Loop) -> None:
        self.on = loop.cfg.train.inspect > 0 and loop.peers.is_first
        if not self.on:
            return
        self._loop, inputs = loop, loop.run.inputs
        split = inputs.splits["validation"]
        self._rows = rows_of(split, loop.cfg)
        self._shown = [
            Shown(
                id=split.documents[i].id,
                name=f"validation {i}: {split.documents[i].id}",
                tokens=split.documents[i].tokens.tolist(),
                texts=texts_of(split.documents[i].tokens, inputs.tokenizer),
            )
            for i in self._rows
        ]
        self._lines = read_lines(self._file, -1 if loop.is_new else loop.start)

    @may_fail
    def add(self, number: int, results: list[dict[str, Any]]) -> None:
        """Takes what `eval_step` gave for each validation batch after a step.

        A model whose numbers are not finite is passed over: the loop ends its run.
        """
        loop = self._loop
        found: dict[str, list[Weighed]] = {}
        for shown, (batch, row) in zip(self._shown, self._rows.values(), strict=True):
            rows, result = loop.validation[batch], results[batch]
            found[shown.id] = [weigh_row(rows, row, result, loop.cfg)]
        told = [x for weighed in found.values() for x in weighed]
        if not all(weighed.is_finite for weighed in told):
            return
        self._lines[number] = frame(number, found)
        self._lines = thinned(self._lines, loop.cfg.train.eval_every)
        self._file.parent.mkdir(exist_ok=True)
        write_text(self._file, "".join(f"{x}\n" for x in self._lines.values()))
        path = self._file.with_suffix(".html")
        write_text(path, self._page())
        loop.tracker.keep_file(path, FOLDER)

    @property
    def _file(self) -> Path:
        return self._loop.run.path / FOLDER / "training.jsonl"

    def _page(self) -> str:
        name = self._loop.run.path.name
        runs = [told_of_run(name, self._loop.cfg)]
        title = f"Weights while {name} trained"
        return page(title, LEAD, runs, self._shown, list(self._lines.values()))


def rows_of(split: Split, cfg: Config) -> dict[int, tuple[int, int]]:
    """Where the examples lie that are looked at: index -> batch of validation, row.

    They are the first `train.inspect` ones that have a target.
    """
    with_target = [i for i, x in enumerate(split.documents) if x.target.any()]
    wanted = with_target[: cfg.train.inspect]
    batches = eval_rows(split, cfg.data.max_length, cfg.data.batch_size)
    places = {
        index: (batch, row)
        for batch, (_, indices) in enumerate(batches)
        for row, index in enumerate(indices)
    }
    return {index: places[index] for index in wanted}


def read_lines(file: Path, last: int) -> dict[int, str]:
    """The lines up to a step; none where the file is not there, or not ours."""
    try:
        lines = file.read_text("utf-8").splitlines()
        found = {int(parse(line)["step"]): line for line in lines}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        log.warning("%s is made anew: %s", file, error)
        return {}
    return {step: line for step, line in found.items() if step <= last}


def thinned(lines: dict[int, str], every: int) -> dict[int, str]:
    """At most `MOST` lines at even distances, and the last one.

    The last step alone decides the distance, not what was left out before.

    Args:
      every: steps between two of them to begin with.

    Example:
      >>> list(thinned({step: "" for step in range(0, 70, 2)}, 2))[-3:]
      [60, 64, 68]
    """
    distance, last = every, max(lines)
    while last // distance >= MOST:
        distance *= 2
    return {x: line for x, line in lines.items() if x % distance == 0 or x == last}
