"""What the command line of `compare` asks for; other options are those of training."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.algorithms import ALGORITHMS, PLAIN
from shared.comparison.grid.arms import NTP
from shared.comparison.grid.budget import KINDS
from shared.comparison.grid.found import Kind, Preparing
from shared.comparison.scores import BITS as BITS_METRIC
from shared.evaluation.asked import BITS, read_asked
from shared.run.main import check_least, home_path

# Options of training that the comparison gives itself.
OWN = ("--algo", "--run-name", "--resume", "--weighting.control", "--dry-run")
KEEP = ("models", "results", "all")
ENOUGH = 16  # samples from which a pass@k says something


@dataclass(frozen=True, kw_only=True)
class Problems:
    """What models are evaluated on: by task its source, and how it is read."""

    sources: Mapping[str, str]
    split: str
    limit: int
    form: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is compared, and how.

    Attributes:
      algos, controls, files: see `arms.arms_of`.
      seeds: runs of each arm.
      kind, amount: of the budget; None is what the dearest arm takes.
      preparing: see `found.Budget`.
      problems: of the evaluation.
      evaluate: its options.
      ks: of pass@k.
      acceptance: prompts that acceptance is measured on; 0 leaves it out.
      folder: of the comparison.
      hours: after which no run is begun or gone on with; 0 is no limit.
      keep: of a finished run: its `models`, its `results` alone, or `all`.
      regression: metric and tolerance, if it may fail.
      training: options of training.
    """

    algos: tuple[str, ...]
    controls: tuple[str, ...]
    files: tuple[str, ...]
    seeds: int
    kind: Kind
    amount: float | None
    preparing: Preparing
    problems: Problems
    evaluate: tuple[str, ...]
    ks: tuple[int, ...]
    acceptance: int
    folder: Path
    hours: float
    keep: str
    regression: tuple[str, float] | None
    dry_run: bool
    report_only: bool
    training: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the files of results."""
        return tuple(self.problems.sources)


def read_arguments(argv: Sequence[str], backend: str, doc: str) -> Asked:
    """The comparison that a command line asks for.

    Raises:
      ValueError: for a mistake, in one line.
      SystemExit: with 0, after `--help`.
    """
    known, rest = _parser(backend, doc).parse_known_args(list(argv))
    for word in rest:
        name = word.partition("=")[0].replace("_", "-")
        if name in OWN:
            raise ValueError(
                f"{name} is no option of compare, which gives each arm its own "
                "(--algos, --controls, --to)"
            )
    check_least(known, {"seeds": 1, "limit": 0, "samples": 1, "acceptance": 0})
    writes = backend == "wmtp_jax"
    problems, evaluate = _evaluation(known, writes)
    if not 0 <= known.hours < math.inf:
        raise ValueError(f"--hours must be >= 0, got {known.hours}")
    kind, amount = _budget(known.budget)
    return Asked(
        algos=_names(known.algos),
        controls=_names(known.controls),
        files=tuple(known.files),
        seeds=known.seeds,
        kind=kind,
        amount=amount,
        preparing=known.preparing,
        problems=problems,
        evaluate=evaluate,
        ks=tuple(dict.fromkeys((1, *known.k))),
        acceptance=known.acceptance if writes else 0,
        folder=known.to,
        hours=known.hours,
        keep=known.keep,
        regression=_regression(known.fail_on_regression, known),
        dry_run=known.dry_run,
        report_only=known.report_only,
        training=tuple(rest),
    )


def _evaluation(
    known: argparse.Namespace, writes: bool
) -> tuple[Problems, tuple[str, ...]]:
    """What is evaluated, and the options that ask for it."""
    what = read_asked(known.tasks, known.problems, writes=writes)
    if not what.bits and not what.written:
        raise ValueError(f"--tasks must have {BITS} or a task, got {known.tasks!r}")
    if what.validation:
        raise ValueError(
            "--tasks must be of bits and tasks of problems: validation is measured by "
            "every run while it trains"
        )
    options = ["--tasks", known.tasks]
    pairs = [f"{task}={_found(source)}" for task, source in what.sources.items()]
    options += ["--data", *pairs]
    for name in ("split", "form"):
        if value := getattr(known, name):
            options += [f"--{name}", value]
    if known.limit:
        options += ["--limit", str(known.limit)]
    if what.written:
        if max(known.k) > known.samples:
            raise ValueError(
                f"--k must be at most --samples = {known.samples}, got {max(known.k)}"
            )
        options += ["--samples", str(known.samples), "--k", *map(str, known.k)]
        options += ["--rows", str(known.rows)]
        if known.samples > 1:
            options += ["--temperature", str(known.temperature)]
            options += ["--top-p", str(known.top_p)]
    problems = Problems(
        sources=dict(what.sources),
        split=known.split,
        limit=known.limit,
        form=known.form,
    )
    return problems, tuple(options)


def _found(source: str) -> str:
    """A path as a child process finds it from anywhere."""
    path = os.path.expanduser(source)
    return os.path.abspath(path) if os.path.exists(path) else source


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for x in text.split(",") if (name := x.strip()))


def _budget(text: str) -> tuple[Kind, float | None]:
    name, is_pair, number = text.partition("=")
    try:
        amount = float(number) if is_pair else None
    except ValueError:
        amount = math.nan
    fits = amount is None or 0 < amount < math.inf
    kind = next((kind for kind in KINDS if kind == name), None)
    if kind is None or not fits:
        raise ValueError(
            f"--budget must be {', '.join(KINDS)}, or one of them with a number > 0 "
            f"(steps=100), got {text!r}"
        )
    return kind, amount


def _regression(text: str, known: argparse.Namespace) -> tuple[str, float] | None:
    """Metric and tolerance; what cannot be asked is told before the grid, not after."""
    if not text:
        return None
    metric, _, number = text.rpartition(":")
    try:
        tolerance = float(number)
    except ValueError:
        tolerance = math.nan
    if not metric or not 0 <= tolerance < math.inf:
        raise ValueError(
            "--fail-on-regression must be METRIC:TOLERANCE with a tolerance >= 0, got "
            f"{text!r}"
        )
    tasks = _names(known.tasks)
    metrics = [BITS_METRIC] * (BITS in tasks)
    metrics += [f"pass@{k}" for k in dict.fromkeys((1, *known.k))] * (tasks != (BITS,))
    if metric not in metrics:
        raise ValueError(
            f"--fail-on-regression must be of {', '.join(metrics)}, which --tasks and "
            f"--k decide, got {metric!r}"
        )
    if not known.report_only and PLAIN not in _names(known.algos):
        raise ValueError(
            f"--fail-on-regression is against {PLAIN}, which must be of --algos"
        )
    return metric, tolerance


def _parser(backend: str, doc: str) -> argparse.ArgumentParser:
    algos = ",".join((NTP, *ALGORITHMS))
    parser = argparse.ArgumentParser(
        prog=f"python -m {backend}.compare",
        description=doc.splitlines()[0],
        epilog=f"All other options are those of python -m {backend}.train.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--algos", default=algos, help=f"with commas between ({algos})")
    add("--controls", default="shuffle", help="of every algorithm with scores: "
        "shuffle, random, both or '' (shuffle)")  # fmt: skip
    add("--files", nargs="+", default=[], metavar="NAME=FOLDER",
        help="results of another tool, TASK.jsonl each, as arms")  # fmt: skip
    add("--seeds", type=int, default=3, help="runs of each arm (3)")
    add("--budget", default="steps", metavar="KIND[=AMOUNT]",
        help="what all arms get the same of: steps, tokens, flops or seconds; without "
        "an amount what the dearest arm takes (steps)")  # fmt: skip
    add("--preparing", choices=("counts", "told"), default="counts",
        help="whether the budget pays for reference and stage 1 (counts)")  # fmt: skip
    add("--tasks", default="bits", help="with commas between (bits)")
    add("--problems", nargs="+", default=[], metavar="TASK=SOURCE",
        help="minis, folder, .jsonl file, hub name (mbpp=minis)")  # fmt: skip
    add("--split", default="", help="of the source of problems (test)")
    add("--limit", type=int, default=0, help="first so many problems; 0 takes all (0)")
    add("--form", default="", help="name of the prompt's form (the first that fits)")
    add("--samples", type=int, default=1, help="programs of each problem (1)")
    add("--temperature", type=float, default=0.2, help="of several samples (0.2)")
    add("--top-p", type=float, default=0.95, help="of several samples (0.95)")
    add("--k", type=int, nargs="+", default=[1], help="of pass@k (1)")
    add("--rows", type=int, default=16, help="texts that are written at once (16)")
    add("--acceptance", type=int, default=0,
        help="prompts to measure the heads' agreement on; 0: not (0)")  # fmt: skip
    add("--to", type=home_path, default=Path("runs/comparison"),
        help="folder of the comparison; goes on in it (runs/comparison)")  # fmt: skip
    add("--hours", type=float, default=0.0,
        help="end after so many, whole seeds first; 0: no limit (0)")  # fmt: skip
    add("--keep", choices=KEEP, default="models",
        help="of a finished run: its model, only its results, or checkpoints too "
        "(models)")  # fmt: skip
    add("--fail-on-regression", default="", metavar="METRIC:TOLERANCE",
        help="exit code 3 if an algorithm is worse than baseline by more")  # fmt: skip
    add("--report-only", action="store_true", help="write the report of what is there")
    add("--dry-run", action="store_true", help="print the plan, write nothing")
    return parser
