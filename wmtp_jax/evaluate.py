"""Problems solved, and bits per byte of right answers, with intervals.

    python -m wmtp_jax.evaluate --model RUN_OR_FOLDER
    python -m wmtp_jax.evaluate --model FOLDER --tasks bits,mbpp,humaneval \
        --data mbpp=MBPP_FOLDER humaneval=HUMANEVAL_FOLDER --to RESULTS
    python -m wmtp_jax.evaluate --model FOLDER --tasks mbpp --samples 32 \
        --temperature 0.2 --top-p 0.95 --k 16 --limit 100

`bits` measures the reference solutions of every other task that is named, or of mbpp;
`validation` measures the validation split of the run; the others let the model write
programs and run these in a sandbox. Results stand problem by problem in
RESULTS/TASK.jsonl. Stopped, the same command goes on.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.card.card import renew_card
from shared.config.fields import MachineConfig
from shared.data.examples import Example
from shared.decoding.requests import DRAFTERS, Sampling
from shared.evaluation import asked as command
from shared.evaluation.report import Report, keep_validation
from shared.evaluation.tasks.contaminated import count_contaminated, trained_on
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.problems import Problem
from shared.evaluation.tasks.solutions import Measure, form_that_fits
from shared.evaluation.verdicts import Limits
from shared.evaluation.walls.levels import Level, SandboxError
from shared.evaluation.walls.probe import level_for
from shared.run.main import check_least, exit_code, home_path
from shared.state.run_folder import run_of
from shared.tracking import console
from wmtp_jax import NAME

ENOUGH = 16  # samples from which a pass@k says something


@dataclass(frozen=True)
class Tools:
    """What a model is asked with.

    Attributes:
      engine: writes programs, if any are to be.
      measure: of solutions and documents, if they are to be measured.
      known: of the settings of every task.
      trained_on: the examples of the model's run, if it is of one.
    """

    model: Any
    engine: Any
    measure: Measure | None
    known: dict[str, Any]
    trained_on: dict[str, list[Example]] | None


def run(asked: argparse.Namespace) -> None:
    """Loads the model, evaluates each task, shows the tables."""
    what = command.read_asked(asked.tasks, asked.data, writes=True)
    sampling = sampling_of(asked)
    if what.written and max(asked.k) > asked.samples:
        raise ValueError(
            f"--k must be at most --samples = {asked.samples}, got {max(asked.k)}"
        )
    problems = {
        task: load_problems(task, source, split=asked.split, limit=asked.limit)
        for task, source in what.sources.items()
    }
    level = level_for(unsafe=asked.unsafe_execution) if what.written else None
    folder = asked.to or command.default_folder(asked.model)
    report = Report(folder, asked.model, asked.k if what.written else [], asked.against)
    tools = load_tools(asked, what)
    for task, of in problems.items():
        evaluate_task(task, of, asked, what, sampling, level, tools, report)
    if what.validation and tools.measure is not None:
        cfg, source = tools.model.cfg, what.validation_source
        keep_validation(
            report, source, tools.model.tokenizer, cfg.max_positions, cfg.vocab_size,
            tools.measure, tools.known,
        )  # fmt: skip
    report.show()
    if level is not None:
        console.say(f"sandbox: {level.name}")
    if what.written and 1 < asked.samples < ENOUGH:
        console.say(f"pass@k is better told from {ENOUGH} samples or more (--samples)")
    report.track(asked.tracking)
    renew_card(asked.model)


def load_tools(asked: argparse.Namespace, what: command.Asked) -> Tools:
    """Reads the model, and makes what it is asked with."""
    from wmtp_jax.decoding.engine import Engine
    from wmtp_jax.decoding.loaded import load
    from wmtp_jax.decoding.surprise import make_measure
    from wmtp_jax.evaluating import weights_digest
    from wmtp_jax.sharding import keep_programs

    keep_programs(asked.compiled)
    model = load(asked.model, MachineConfig(dtype=asked.dtype))
    engine, measure = None, None
    if what.written:
        engine = Engine(model, rows=asked.rows, drafter=asked.drafter)
    if what.bits or what.validation:
        measure = make_measure(model, engine.prompts if engine is not None else None)
    known = {
        "model": asked.model,
        "model_digest": weights_digest(model),
        "dtype": model.dtype,
        "batch_size": asked.rows,
        "versions": command.versions_of("jax"),
    }
    return Tools(model, engine, measure, known, trained_on(run_of(asked.model)))


def evaluate_task(
    task: str,
    problems: list[Problem],
    asked: argparse.Namespace,
    what: command.Asked,
    sampling: Sampling,
    level: Level | None,
    tools: Tools,
    report: Report,
) -> None:
    """Finds what is missing of one task, into the report."""
    from wmtp_jax.evaluating import How, evaluate

    model, writes = tools.model, task in what.written
    most = model.cfg.max_positions
    form, prompts = form_that_fits(model.tokenizer, most, problems, asked.form)
    how = How(
        form=form,
        samples=asked.samples if writes else 0,
        sampling=sampling,
        level=level,
        limits=Limits(cpu_seconds=asked.cpu_seconds),
    )
    settings = command.settings_of(
        problems,
        form,
        sampling=sampling if writes else None,
        samples=how.samples,
        level=level.name if writes and level is not None else "",
        limits=how.limits,
        source=what.sources[task],
        split=asked.split or "test",
        contaminated=count_contaminated(tools.trained_on, problems),
        **tools.known,
    )
    with report.keeping(task, f"{task} ({form.name})", settings) as (kept, told):
        evaluate(
            problems, prompts, how, kept, tokenizer=model.tokenizer,
            engine=tools.engine if writes else None,
            measure=tools.measure if what.bits else None, progress=told,
        )  # fmt: skip


def sampling_of(asked: argparse.Namespace) -> Sampling:
    """Without a temperature the most probable tokens; other samples need one.

    Raises:
      ValueError: if several samples would all be the same.
    """
    if asked.samples > 1 and asked.temperature == 0:
        raise ValueError(
            "--temperature must be > 0 for several samples, which would all be the "
            "same, got 0"
        )
    return Sampling(
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        seed=asked.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.evaluate", description=(__doc__ or "").splitlines()[0]
    )
    add: Callable[..., Any] = parser.add_argument
    command.add_options(add, "bits,mbpp")
    add("--samples", type=int, default=1, help="programs of each problem (1)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    add("--top-k", type=int, default=0, help="only so many of the most probable (all)")
    add("--top-p", type=float, default=1.0,
        help="the fewest tokens that have this share together (1)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the first problem's noise (0)")
    add("--k", type=int, nargs="+", default=[1], help="of pass@k (1)")
    add("--drafter", choices=DRAFTERS, default="none", help="who drafts tokens (none)")
    add("--rows", type=int, default=16, help="texts that are written at once (16)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--cpu-seconds", type=float, default=Limits().cpu_seconds,
        help="of the processor for one program (3)")  # fmt: skip
    add("--unsafe-execution", action="store_true",
        help="run programs without a sandbox, with all that you may do")  # fmt: skip
    add("--compiled", type=home_path, default=Path("runs/compiled"),
        help="folder of compiled programs (runs/compiled)")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome:
        asked = _parser().parse_args(argv)
        check_least(asked, {"samples": 1, "rows": 1, "limit": 0})
        if min(asked.k) < 1:
            raise ValueError(f"--k must be >= 1, got {min(asked.k)}")
        from wmtp_jax.sharding import jax_told

        with jax_told():
            try:
                run(asked)
            except SandboxError as error:
                raise ValueError(str(error)) from None
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
