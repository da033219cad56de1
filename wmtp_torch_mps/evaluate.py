"""Bits per byte of right answers, and the validation split, on the device at hand.

    python -m wmtp_torch_mps.evaluate --model RUN_OR_FOLDER
    python -m wmtp_torch_mps.evaluate --model FOLDER --tasks bits \\
        --data mbpp=MBPP_FOLDER humaneval=HUMANEVAL_FOLDER --to RESULTS

Programs are written and judged by `python -m wmtp_jax.evaluate`, which reads what this
trainer exports. Results stand problem by problem in RESULTS/TASK.jsonl. Stopped, the
same command goes on.
"""

import argparse
import hashlib
import sys
from collections.abc import Callable
from typing import Any

from shared.card.card import renew_card
from shared.config.fields import MachineConfig
from shared.evaluation import asked as command
from shared.evaluation.report import Report, keep_validation
from shared.evaluation.tasks.contaminated import count_contaminated, trained_on
from shared.evaluation.tasks.loading import load_problems
from shared.evaluation.tasks.solutions import bits_of, form_that_fits
from shared.evaluation.verdicts import Limits
from shared.run.main import check_least, exit_code
from shared.state.run_folder import run_of
from wmtp_torch_mps import NAME


def run(asked: argparse.Namespace) -> None:
    """Loads the model, measures each task, shows the tables."""
    what = command.read_asked(asked.tasks, asked.data, writes=False)
    problems = {
        task: load_problems(task, source, split=asked.split, limit=asked.limit)
        for task, source in what.sources.items()
    }
    folder = asked.to or command.default_folder(asked.model)
    report = Report(folder, asked.model, [], asked.against)
    from wmtp_torch_mps.loaded import load
    from wmtp_torch_mps.surprise import make_measure

    loaded = load(asked.model, MachineConfig(device=asked.device, dtype=asked.dtype))
    model, tokenizer = loaded.model, loaded.tokenizer
    measure, cfg = make_measure(model), model.cfg.model
    known = {
        "model": asked.model,
        "model_digest": weights_digest(model),
        "dtype": asked.dtype,
        "batch_size": 1,
        "versions": command.versions_of("torch"),
    }
    trained = trained_on(run_of(asked.model))
    for task, of in problems.items():
        form, prompts = form_that_fits(tokenizer, cfg.max_positions, of, asked.form)
        settings = command.settings_of(
            of,
            form,
            sampling=None,
            samples=0,
            level="",
            limits=Limits(),
            source=what.sources[task],
            split=asked.split or "test",
            contaminated=count_contaminated(trained, of),
            **known,
        )
        with report.keeping(task, f"{task} ({form.name})", settings) as (kept, told):
            left = list(zip(of, prompts, strict=True))[len(kept.results) :]
            for problem, ids in left:
                kept.add(bits_of(problem, ids, form, tokenizer, measure))
                told(len(kept.results))
    if what.validation:
        source, most, rows = what.validation_source, cfg.max_positions, cfg.vocab_size
        keep_validation(report, source, tokenizer, most, rows, measure, known)
    report.show()
    report.track(asked.tracking)
    renew_card(asked.model)


def weights_digest(model: Any) -> str:
    """Of all parameters by their names."""
    from wmtp_torch_mps.model import named

    digest = hashlib.sha256()
    for name, parameter in sorted(named(model).items()):
        array = parameter.detach().cpu().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.evaluate", description=(__doc__ or "").splitlines()[0]
    )
    add: Callable[..., Any] = parser.add_argument
    command.add_options(add, "bits,validation")
    add("--device", choices=("auto", "cpu", "mps"), default="auto",
        help="mps where there is one, else the CPU (auto)")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome:
        asked = _parser().parse_args(argv)
        check_least(asked, {"limit": 0})
        run(asked)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
