"""What the command lines of both `evaluate` ask for, and where results go."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from shared.decoding.requests import Sampling
from shared.evaluation.results.kept import Settings
from shared.evaluation.tasks.problems import TASKS, Problem
from shared.evaluation.tasks.prompts import PromptForm
from shared.evaluation.verdicts import Limits
from shared.huggingface.folder import files_digest
from shared.run.main import home_path
from shared.state.run_folder import named_step, run_of

BITS, VALIDATION = "bits", "validation"
WRITTEN: tuple[str, ...] = TASKS


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is evaluated.

    Attributes:
      bits: whether reference solutions are measured.
      validation: whether the validation split is.
      written: tasks that programs are written for.
      sources: of each task whose problems are read, its source.
      validation_source: another than the run's own.
    """

    bits: bool
    validation: bool
    written: tuple[str, ...]
    sources: Mapping[str, str]
    validation_source: str = ""


def read_asked(tasks: str, data: Sequence[str], *, writes: bool) -> Asked:
    """What --tasks and --data say.

    Bits are measured of every task that is written for, and of those that only --data
    names; of mbpp, if that is none.

    Args:
      tasks: names with commas between.
      data: `TASK=SOURCE` each, or a source where there is one task.
      writes: whether programs can be written here.

    Raises:
      ValueError: if there is no such task, or a word of --data is of none that is asked
        for.
    """
    known = (BITS, VALIDATION, *(WRITTEN if writes else ()))
    names = tuple(dict.fromkeys(name.strip() for name in tasks.split(",")))
    for name in names:
        if name not in known:
            hint = "" if writes or name not in WRITTEN else (
                f" (its solutions are measured by --tasks bits --data {name}=SOURCE)"
            )  # fmt: skip
            raise ValueError(
                f"--tasks must be of {', '.join(known)}, with commas between, got "
                f"{name!r}{hint}"
            )
    bits, validation = BITS in names, VALIDATION in names
    written = tuple(name for name in names if name in WRITTEN)
    sources = dict.fromkeys(written, "minis")
    given = _named_sources(data, names, bits)
    validation_source = given.pop(VALIDATION, "")
    sources |= given
    if bits and not sources:
        sources["mbpp"] = "minis"
    return Asked(
        bits=bits,
        validation=validation,
        written=written,
        sources=sources,
        validation_source=validation_source,
    )


def _named_sources(
    words: Sequence[str], names: Sequence[str], bits: bool
) -> dict[str, str]:
    own = [name for name in names if name != BITS]
    usable = [*own, *(x for x in WRITTEN if bits and x not in own)]
    found: dict[str, str] = {}
    for word in words:
        task, is_pair, source = word.partition("=")
        if not is_pair and len(own) <= 1:
            task, source = (own or ["mbpp"])[0], word
        if task not in usable or not source:
            raise ValueError(
                f"--data must be TASK=SOURCE of {', '.join(usable)}, got {word!r}"
            )
        found[task] = source
    return found


def add_options(add: Callable[..., Any], tasks: str) -> None:
    """The options that both command lines have.

    Args:
      tasks: the default of --tasks.
    """
    add("--model", required=True, help="run, RUN/checkpoints/STEP, folder or hub name")
    add("--tasks", default=tasks, help=f"with commas between ({tasks})")
    add("--data", nargs="+", default=[], help="TASK=SOURCE: minis, folder, .jsonl "
        "file, hub name (minis; of validation: the run's own)")  # fmt: skip
    add("--split", default="", help="of the source of problems (test)")
    add("--limit", type=int, default=0, help="first so many problems; 0 takes all (0)")
    add("--form", default="", help="name of the prompt's form (the first that fits)")
    add("--to", type=home_path, help="folder of results (RUN/evaluated)")
    add("--against", type=home_path,
        help="folder of other results: differences problem by problem")  # fmt: skip
    add("--tracking", choices=("auto", "mlflow", "none"), default="auto",
        help="MLflow beside the files; auto: as the run has it (auto)")  # fmt: skip


def files_of(model: str) -> str:
    """Digest of the files that a model is read from; empty of what is no model folder.

    Args:
      model: run, RUN/checkpoints/STEP, or folder; a run's own export is meant by a run.
    """
    path, run = Path(model).expanduser(), run_of(model)
    if run is not None and named_step(path) is None:
        path = run / "model"
    return files_digest(path) if (path / "config.json").is_file() else ""


def default_folder(model: str) -> Path:
    """Where results go if no folder is named: into the run, or beside where we are."""
    path, run = Path(model).expanduser(), run_of(model)
    if run is None:
        return Path("runs/evaluated") / (path.name or "model")
    step = named_step(path)
    return run / "evaluated" / ("" if step is None else str(step))


def settings_of(
    problems: Sequence[Problem],
    form: PromptForm,
    *,
    sampling: Sampling | None,
    samples: int,
    level: str,
    limits: Limits,
    **known: Any,
) -> Settings:
    """What decides the numbers of one task.

    Args:
      sampling: None where nothing is written.
      known: the other fields: `source`, `split`, `model`, `model_digest`, `dtype`,
        `batch_size`, `contaminated`, `versions`.
    """
    texts = "\0".join(form.text(problem) for problem in problems)
    drawn = {
        name: getattr(sampling, name)
        for name in ("temperature", "top_k", "top_p") if sampling is not None
    }  # fmt: skip
    return Settings(
        task=problems[0].task,
        num_problems=len(problems),
        form=form.name,
        prompts_digest=sha256(texts.encode("utf-8", "surrogatepass")).hexdigest(),
        stop=form.stop,
        max_tokens=form.max_tokens,
        sampling=drawn,
        samples=samples,
        seeds=() if sampling is None else (sampling.seed,),
        level=level,
        limits={} if sampling is None else asdict(limits),
        **known,
    )


def versions_of(*packages: str) -> dict[str, str]:
    """Of Python, of this package and of those that compute."""
    names = ("wmtp", "numpy", *packages)
    return {"python": platform.python_version()} | {x: version(x) for x in names}
