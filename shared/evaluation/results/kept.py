"""Results kept as JSON lines while they come, and read back.

    FILE.jsonl           one line a problem
    FILE.settings.json   what decided them

Everything that is reported (any pass@k, interval or pairing) can be computed from these
files again. Lines of other tools are read, too: `{"task_id", "n", "c"}` of a problem,
or `{"task_id", "passed"}` of a sample.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from shared.data.examples import read_lines
from shared.data.kinds import ID, Kind, Row, check_row
from shared.decoding.kept_lines import KeptLines
from shared.evaluation.results.of_problems import Completion, HeadMeasure, ProblemResult
from shared.files import write_json
from shared.json_text import read_object


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the numbers of one file; a file goes on only under the same.

    Attributes:
      task, source, split, num_problems: which problems.
      model: as the user has named it; `model_digest` is of its weights.
      form: name of the prompt form; `prompts_digest` is the sha256 of all prompts.
      stop, max_tokens: of a completion.
      sampling: temperature, top_k, top_p, min_p.
      samples: of a problem.
      seeds: of each problem's request, or what they are made from.
      level: of the sandbox; empty where nothing is run.
      limits: of one run in it.
      contaminated: training documents that share text with the task's problems; None
        if that is not known.
      versions: of Python and of the libraries that computed.
    """

    task: str
    source: str
    split: str
    num_problems: int
    model: str
    model_digest: str
    dtype: str
    batch_size: int
    form: str = ""
    prompts_digest: str = ""
    stop: tuple[str, ...] = ()
    max_tokens: int = 0
    sampling: Mapping[str, float]
    samples: int = 0
    seeds: tuple[int, ...] = ()
    level: str = ""
    limits: Mapping[str, Any]
    contaminated: int | None = None
    versions: Mapping[str, str]


FILES = "model_files"  # digest of the files that the model was read from
COUNT: Kind = (
    "an integer >= 0",
    lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= 0,
)
NUMBER: Kind = (
    "a number",
    lambda x: isinstance(x, int | float) and not isinstance(x, bool),
)
PASSED: Kind = ("true or false", lambda x: isinstance(x, bool))


def _are(of: type) -> Kind:
    """A list of what one of our own lines holds of a dataclass."""
    keys = {field.name for field in fields(of)}
    return (
        f"a list of {{{', '.join(sorted(keys))}}}",
        lambda x: (
            isinstance(x, list)
            and all(isinstance(y, dict) and y.keys() == keys for y in x)
        ),
    )


# What a line holds beside `task_id`: of samples, and of the reference solution. Another
# tool's `level`, `completions` and `heads` may be anything, and are not read then.
NEEDED = {"n": COUNT, "c": COUNT}
BITS = {"bits": NUMBER, "bytes": COUNT}
COUNTED: dict[str, Kind] = {
    **NEEDED,
    "timed_out": COUNT,
    "level": ("a string", lambda x: isinstance(x, str)),
    "completions": _are(Completion),
}
MEASURED: dict[str, Kind] = {**BITS, "heads": _are(HeadMeasure)}


class KeptResults:
    """The results of one task while they come, and what an earlier call has left.

    Attributes:
      results: those that are there, in the order of the problems.
      finished: whether nothing is missing.
    """

    def __init__(self, path: Path, settings: Settings, option: str) -> None:
        """Finds what an earlier call with the same settings has kept.

        Args:
          path: the file of lines; its folder must be there.
          option: what the user has named the file by, for messages.

        Raises:
          ValueError: if the file was made with other settings or cannot be written.
        """
        self._settings, self._path = json.loads(json.dumps(asdict(settings))), path
        self.finished = path.exists()
        if self.finished:
            self._refuse_other(option)
            self.results = read_results(path)
        else:
            self._lines = KeptLines(path, self._settings, option)
            self.results = [_to_result(x, str(path)) for x in self._lines.lines]

    def _refuse_other(self, option: str) -> None:
        before = read_settings(self._path)
        other = [name for name, x in self._settings.items() if before.get(name) != x]
        if other:
            raise ValueError(
                f"{option} must be a new file or one of the same settings, got "
                f"{'other ' + ', '.join(other) if before else 'none'} in "
                f"{settings_file(self._path)}"
            )

    def add(self, result: ProblemResult) -> None:
        """Takes the result of the next problem; it is on disk when the call returns."""
        self._lines.add(_to_line(result))
        self.results.append(result)

    def finish(self) -> None:
        """Gives both files their names, the settings first."""
        if not self.finished:
            found = {"timed_out": sum(result.timed_out for result in self.results)}
            write_json(settings_file(self._path), self._settings | found)
            self._lines.finish()
            self.finished = True


def settings_file(path: Path) -> Path:
    """The file beside a file of results that tells what decided them."""
    return path.with_name(f"{path.name.removesuffix('.jsonl')}.settings.json")


def note_files(path: Path, digest: str) -> None:
    """Keeps beside a whole file which weights it is of (`folder.files_digest`).

    No setting: it tells a model card whose results these are, and results that are
    older than this note go on without it.
    """
    settings = read_settings(path)
    if digest and settings.get(FILES) != digest:
        write_json(settings_file(path), settings | {FILES: digest})


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a file of results, and its time-outs; empty without any.

    Raises:
      ValueError: if they are no JSON object.
    """
    file = settings_file(path)
    if not file.is_file():
        return {}
    return read_object(file)


def read_results(path: Path) -> list[ProblemResult]:
    """The results in a file of ours or of another tool, in its order.

    Raises:
      ValueError: if the file cannot be read, or a line is no result.
    """
    results: dict[str, ProblemResult] = {}
    samples: dict[str, list[bool]] = {}
    for where, line in read_lines(path):
        if "passed" in line and "n" not in line:
            check_row(line, {"task_id": ID, "passed": PASSED}, "a sample", where)
            samples.setdefault(str(line["task_id"]), []).append(line["passed"])
        else:
            result = _to_result(line, where)
            if result.id in results:
                raise ValueError(
                    f"{where}: task_id must be unique, got {result.id!r} again"
                )
            results[result.id] = result
    if results and samples:
        raise ValueError(
            f"{path} must hold lines of problems (n, c) or of samples (passed), got "
            "both"
        )
    for name, of in samples.items():
        results[name] = ProblemResult(id=name, n=len(of), c=sum(of))
    return list(results.values())


def _to_line(result: ProblemResult) -> Row:
    """`task_id` for the id, and only what was found."""
    held = asdict(result)
    counted = result.n > 0 or result.bits is None
    names = [*COUNTED] * counted + [*MEASURED] * (result.bits is not None)
    return {"task_id": result.id} | {name: held[name] for name in names}


def _to_result(line: Row, where: str) -> ProblemResult:
    counted = "n" in line or "bits" not in line
    keys = {"task_id": ID} | (NEEDED if counted else BITS)
    kinds = COUNTED | MEASURED
    keys |= {x: kinds[x] for x in ("timed_out", *BITS) if x in line}
    check_row(line, keys, "a result", where)
    held = {
        name: line[name]
        for name, (_, holds) in kinds.items()
        if name in line and holds(line[name])
    }
    for name, of in (("completions", Completion), ("heads", HeadMeasure)):
        held[name] = tuple(of(**x) for x in held.get(name, ()))
    try:
        return ProblemResult(id=str(line["task_id"]), **held)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
