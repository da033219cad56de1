"""Problems solved, and bits per byte of right answers, with intervals.

    python -m wmtp_jax.evaluate --model RUN_OR_FOLDER
    python -m wmtp_jax.evaluate --model FOLDER --tasks bits,mbpp,humaneval \
        --data mbpp=MBPP_FOLDER humaneval=HUMANEVAL_FOLDER --to RESULTS
    python -m wmtp_jax.evaluate --model FOLDER --tasks mbpp --samples 32 \
        --temperature 0.2 --top-p 0.95 --k 16 --limit 100

`bits` measures the reference solutions of every other task that is named, or of mbpp;
the others let the model write programs and run these in a sandbox. Results stand
problem by problem in RESULTS/TASK.jsonl. Stopped, the same command goes on.
"""

import argparse
import platform
import sys
from dataclasses import asdict
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from shared.config.fields import MachineConfig
from shared.decoding.requests import DRAFTERS, Sampling
from shared.evaluation import kept_results, loading, table
from shared.evaluation.levels import SandboxError
from shared.evaluation.probe import level_for
from shared.evaluation.problems import Problem, Task
from shared.evaluation.prompts import FORMS, PromptForm, find_form
from shared.evaluation.verdicts import Limits
from shared.run.main import exit_code, home_path
from shared.state.run_folder import named_step
from shared.tracking import console
from shared.tracking.console import Progress
from wmtp_jax import NAME

TASKS = ("bits", *get_args(Task))
ENOUGH = 16  # samples from which a pass@k says something


def named_tasks(text: str) -> tuple[bool, tuple[Any, ...]]:
    """Whether bits are measured, and the tasks that programs are written for.

    Raises:
      ValueError: if there is no such task.
    """
    names = dict.fromkeys(name.strip() for name in text.split(","))
    for name in names:
        if name not in TASKS:
            raise ValueError(
                f"--tasks must be of {', '.join(TASKS)}, with commas between, got "
                f"{name!r}"
            )
    return "bits" in names, tuple(name for name in names if name != "bits")


def named_sources(words: list[str], tasks: tuple[str, ...]) -> dict[str, str]:
    """The source of each task: `minis` if none is named.

    Raises:
      ValueError: if a word is not TASK=SOURCE, of a task that is named.
    """
    found = dict.fromkeys(tasks, "minis")
    for word in words:
        task, is_pair, source = word.partition("=")
        if not is_pair:
            task, source = tasks[0], word
        if task not in found or (not is_pair and len(tasks) > 1):
            raise ValueError(
                f"--data must be TASK=SOURCE of {', '.join(tasks)}, got {word!r}"
            )
        found[task] = source
    return found


def form_that_fits(
    model: Any, problems: list[Problem], name: str
) -> tuple[PromptForm, list[list[int]]]:
    """The form that is asked for, or the task's first that leaves room everywhere.

    Raises:
      ValueError: if there is no such form, or no room for its prompts.
    """
    from wmtp_jax.evaluating import prompts_of

    task, most = problems[0].task, model.cfg.max_positions
    forms = [find_form(task, name)]
    if not name:
        forms = [form for form in FORMS if task in form.tasks and not form.chat]
    longest = []
    for form in forms:
        prompts = prompts_of(model, problems, form)
        longest.append(max(map(len, prompts)))
        if longest[-1] < most:
            return form, prompts
    raise ValueError(
        f"prompts of {task} must have fewer than the model's {most} tokens, got "
        f"{min(longest)} in the form {forms[longest.index(min(longest))].name!r}"
    )


def run(asked: argparse.Namespace) -> None:
    """Loads the model, evaluates each task, shows the table."""
    bits, written = named_tasks(asked.tasks)
    writes = bool(written)
    sources = named_sources(asked.data, written or ("mbpp",))
    samples = asked.samples if writes else 0
    if writes and max(asked.k) > samples:
        raise ValueError(
            f"--k must be at most --samples = {samples}, got {max(asked.k)}"
        )
    problems = {
        task: loading.load_problems(task, source, split=asked.split, limit=asked.limit)
        for task, source in sources.items()
    }
    level = level_for(unsafe=asked.unsafe_execution) if writes else None
    folder = asked.to or default_folder(asked.model)
    folder.mkdir(parents=True, exist_ok=True)
    from wmtp_jax.decoding.engine import Engine
    from wmtp_jax.decoding.loaded import load
    from wmtp_jax.decoding.surprise import make_measure
    from wmtp_jax.evaluating import How, evaluate, weights_digest
    from wmtp_jax.sharding import keep_programs

    keep_programs(asked.compiled)
    model = load(asked.model, MachineConfig(dtype=asked.dtype))
    engine = Engine(model, rows=asked.rows, drafter=asked.drafter) if writes else None
    measure = make_measure(model) if bits else None
    digest, rows = weights_digest(model), []
    for task, of in problems.items():
        form, prompts = form_that_fits(model, of, asked.form)
        how = How(
            form=form,
            samples=samples,
            sampling=sampling_of(asked),
            level=level,
            limits=Limits(cpu_seconds=asked.cpu_seconds),
        )
        settings = settings_of(asked, how, of, prompts, model, sources[task], digest)
        kept = kept_results.KeptResults(folder / f"{task}.jsonl", settings, "--to")
        start = len(kept.results)
        with Progress(len(of), task, start=start, unit="problem") as progress:
            evaluate(
                of, prompts, how, kept, tokenizer=model.tokenizer, engine=engine,
                measure=measure, progress=progress.update,
            )  # fmt: skip
        kept.finish()
        ks = asked.k if samples else []
        rows.append(table.table_row(f"{task} ({form.name})", kept.results, ks))
    show(rows, asked, samples, level)


def show(rows: list[Any], asked: Any, samples: int, level: Any) -> None:
    """The table, and what it does not say by itself."""
    console.table(asked.model, table.table_columns(asked.k if samples else []), rows)
    console.say(table.NOTE)
    if level is not None:
        console.say(f"sandbox: {level.name}")
    if 1 < samples < ENOUGH:
        console.say(f"pass@k is better told from {ENOUGH} samples or more (--samples)")


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


def settings_of(
    asked: argparse.Namespace,
    how: Any,
    problems: list[Problem],
    prompts: list[list[int]],
    model: Any,
    source: str,
    digest: str,
) -> kept_results.Settings:
    """What decides the numbers of one task."""
    form, writes = how.form, how.samples > 0
    texts = "\0".join(form.text(problem) for problem in problems)
    sampling = {x: getattr(how.sampling, x) for x in ("temperature", "top_k", "top_p")}
    return kept_results.Settings(
        task=problems[0].task,
        source=source,
        split=asked.split or "test",
        num_problems=len(problems),
        model=asked.model,
        model_digest=digest,
        dtype=model.dtype,
        batch_size=asked.rows,
        form=form.name,
        prompts_digest=sha256(texts.encode("utf-8", "surrogatepass")).hexdigest(),
        stop=form.stop,
        max_tokens=form.max_tokens,
        sampling=sampling if writes else {},
        samples=how.samples,
        seeds=(how.sampling.seed,) if writes else (),
        level=how.level.name if writes else "",
        limits=asdict(how.limits) if writes else {},
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("wmtp", "jax", "numpy")},
        },
    )


def default_folder(model: str) -> Path:
    """Where results go if no folder is named: into the run, or beside where we are."""
    path = Path(model).expanduser()
    if (step := named_step(path)) is not None:
        return path.parent.parent / "evaluated" / str(step)
    if (path / "config.yaml").is_file():
        return path / "evaluated"
    return Path("runs/evaluated") / (path.name or "model")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.evaluate", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--model", required=True, help="run, RUN/checkpoints/STEP, folder or hub name")
    add("--tasks", default="bits,mbpp", help="of bits, mbpp, mbpp_plus, humaneval, "
        "humaneval_plus, contest (bits,mbpp)")  # fmt: skip
    add("--data", nargs="+", default=[],
        help="TASK=SOURCE: minis, folder, .jsonl file, hub name (minis)")  # fmt: skip
    add("--split", default="", help="of the source (test)")
    add("--limit", type=int, default=0, help="first so many problems; 0 takes all (0)")
    add("--form", default="", help="name of the prompt's form (the first that fits)")
    add("--samples", type=int, default=1, help="programs of each problem (1)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    add("--top-k", type=int, default=0, help="only so many of the most probable (all)")
    add("--top-p", type=float, default=1.0,
        help="the fewest tokens that have this share together (1)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the first problem's noise (0)")
    add("--k", type=int, nargs="+", default=[1], help="of pass@k (1)")
    add("--to", type=home_path, help="folder of results (RUN/evaluated)")
    add("--drafter", choices=DRAFTERS, default="auto", help="who drafts tokens (auto)")
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
        least = {"samples": 1, "rows": 1, "limit": 0}
        for name, number in least.items():
            if getattr(asked, name) < number:
                raise ValueError(
                    f"--{name} must be >= {number}, got {getattr(asked, name)}"
                )
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
