"""Our models in lm-evaluation-harness, and its tasks judged in our sandbox.

    python -m wmtp_jax.harness --model RUN_OR_FOLDER --tasks wmtp_mbpp,wmtp_mbpp_bits \\
        --data MBPP_FOLDER --limit 100 --to FILE.json

    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from wmtp_jax.harness_model import TASKS, WMTP

    told = {"source": {"mbpp": "MBPP_FOLDER", "humaneval": "HUMANEVAL_FOLDER"}}
    manager = TaskManager(include_path=str(TASKS), metadata=told)
    simple_evaluate(WMTP("runs/one"), tasks=["wmtp_mbpp"], task_manager=manager)

Needs the extra `lm-eval`. The tasks `wmtp_...` read our problems and ask in our prompt
forms, which are the harness's byte for byte; they run programs in our sandbox, where
the harness's own tasks run them unprotected and fetch a metric from the hub first.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from shared.decoding.requests import DRAFTERS
from shared.evaluation.asked import WRITTEN, read_asked
from shared.files import write_json
from shared.run.main import check_least, exit_code, home_path
from shared.tracking import console
from wmtp_jax import NAME


def run(asked: argparse.Namespace) -> None:
    """Evaluates by the harness and shows its table."""
    if not sys.stderr.isatty():  # tqdm reads it when it is imported
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
        from lm_eval.utils import make_table
    except ModuleNotFoundError as error:
        raise ValueError(
            "lm-evaluation-harness must be installed (pip install -e '.[lm-eval]'), "
            f"got none: {error}"
        ) from None
    from wmtp_jax.harness_model import OURS, TASKS, WMTP
    from wmtp_jax.sharding import keep_programs

    names = [name.strip() for name in asked.tasks.split(",")]
    keep_programs(asked.compiled)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it tells of its options
    own = [str(TASKS), *map(str, asked.include)]
    told = {"source": sources_of(asked.data), "split": asked.split}
    manager = TaskManager(include_path=own, include_defaults=False, metadata=told)
    unknown = [name for name in names if name not in manager.all_tasks]
    if not all(name.startswith(OURS) for name in unknown):  # reading all takes long
        manager = TaskManager(include_path=own, metadata=told)
        unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        known = sorted(name for name in manager.all_tasks if name.startswith(OURS))
        raise ValueError(
            f"--tasks must be of {', '.join(known)} or the harness's own, got "
            f"{', '.join(unknown)}"
        )
    model = WMTP(asked.model, dtype=asked.dtype, rows=asked.rows, drafter=asked.drafter)
    found = simple_evaluate(
        model, tasks=names, task_manager=manager, limit=asked.limit or None
    )
    console.say(make_table(found))
    if asked.to:
        write_json(asked.to, json.loads(json.dumps(found, default=str)))


def sources_of(data: Sequence[str]) -> str | dict[str, str]:
    """One source of all problems, or that of each task that is named.

    Raises:
      ValueError: if there is no such task.
    """
    if len(data) == 1 and "=" not in data[0]:
        return data[0]
    return dict(read_asked(",".join(WRITTEN), data, writes=True).sources)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.harness", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--model", required=True, help="run, RUN/checkpoints/STEP, folder or hub name")
    add("--tasks", default="wmtp_mbpp", help="with commas between (wmtp_mbpp)")
    add("--data", nargs="+", default=["minis"], help="of the problems of our tasks: a "
        "source, or TASK=SOURCE of mbpp, humaneval, ... (minis)")  # fmt: skip
    add("--split", default="", help="of the source (test)")
    add("--include", type=home_path, nargs="+", default=[],
        help="folders of other tasks' YAML files")  # fmt: skip
    add("--limit", type=int, default=0, help="first so many problems; 0 takes all (0)")
    add("--to", type=home_path, help="JSON file of all that the harness tells")
    add("--drafter", choices=DRAFTERS, default="none", help="who drafts tokens (none)")
    add("--rows", type=int, default=16, help="texts that are written at once (16)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--compiled", type=home_path, default=Path("runs/compiled"),
        help="folder of compiled programs (runs/compiled)")  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome:
        asked = _parser().parse_args(argv)
        check_least(asked, {"rows": 1, "limit": 0})
        from wmtp_jax.sharding import jax_told

        with jax_told():
            run(asked)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
