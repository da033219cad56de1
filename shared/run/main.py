"""From a command line to a run folder and back, the same for both backends.

A backend's `train.py` brings two functions: `train(inputs, path, resumed, step)`, which
does everything inside a run folder, and `show(inputs)` for `--dry-run`.
"""

import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.config.layers import dump_config, load_config
from shared.run.backend import Backend
from shared.run.command_line import parse
from shared.run.freed_memory import use_one_heap
from shared.run.inputs import Inputs, read_inputs
from shared.state import run_folder
from shared.state.adopt import adopt
from shared.state.model_source import keep_tokenizer
from shared.state.portable_state import is_state
from shared.tracking import console

Train = Callable[[Inputs, Path, bool, int | None], dict]


def run(
    backend: Backend,
    train: Train,
    cfg: Config,
    resume: str = "",
    overrides: dict[str, Any] | None = None,
) -> dict:
    """One training run, from config to summary.

    Args:
      cfg: what to run; with `resume` only its output_dir is read.
      resume: a run or checkpoint to go on with, or an exported folder of either
        backend.
      overrides: fields given explicitly with `resume`.

    Returns:
      What `summary.json` holds.

    Raises:
      ValueError: for anything the user can mend.
    """
    adopted = None
    if resume and _is_export(Path(resume), backend):
        adopted = adopt(Path(resume), cfg.output_dir, overrides or {}, backend)
        resume, overrides = str(adopted), {}
    try:
        inputs, path, step = _open(backend, cfg, resume, overrides or {})
    except BaseException:
        if adopted is not None:
            shutil.rmtree(adopted, ignore_errors=True)
        raise
    held = run_folder.lock(path)
    try:
        run_folder.check_inputs(path, inputs.digests)
        keep_tokenizer(path, inputs.tokenizer)
        console.setup_logging(path, inputs.cfg.verbose)
        return train(inputs, path, bool(resume), step)
    finally:
        console.close_logging()
        held.release()


def _open(
    backend: Backend, cfg: Config, resume: str, overrides: dict[str, Any]
) -> tuple[Inputs, Path, int | None]:
    """Inputs, run folder and the step that is asked for of a new or a resumed run."""
    if not resume:
        inputs = read_inputs(cfg, backend)
        path, cfg = run_folder.create(inputs.cfg)
        named = replace(inputs.cfg, run_name=cfg.run_name)
        return replace(inputs, cfg=named), path, None
    path, step = run_folder.find(resume, cfg.output_dir)
    run_folder.check_backend(
        path, backend.name, "to go on: export it there, --resume the folder here"
    )
    cfg = run_folder.resumed_config(path, overrides)
    cfg = replace(cfg, output_dir=str(path.parent), run_name=path.name)
    inputs = read_inputs(cfg, backend, path)
    if run_folder.recorded_inputs(path):  # said before anything is written
        run_folder.check_inputs(path, inputs.digests)
    if overrides:  # what was changed on the way stays changed at the next resume
        run_folder.write_text(path / "config.yaml", dump_config(inputs.cfg))
    return inputs, path, step


def _is_export(path: Path, backend: Backend) -> bool:
    """Whether a new run has to be made of it; not so a checkpoint of a run of ours."""
    run = path.absolute().parent.parent
    own = run_folder.recorded_inputs(run).get("backend") == backend.name
    return is_state(path) and not (own and path.absolute().parent.name == "checkpoints")


def _dry_run(
    backend: Backend,
    show: Callable[[Inputs], None],
    cfg: Config,
    resume: str,
    overrides: dict[str, Any],
) -> None:
    """Checks and shows what would be run; leaves nothing behind."""
    with tempfile.TemporaryDirectory() as folder:
        path = None
        if resume and _is_export(Path(resume), backend):
            path = adopt(Path(resume), folder, overrides, backend)
            cfg = load_config(path / "config.yaml")
        elif resume:
            path, _ = run_folder.find(resume, cfg.output_dir)
            cfg = run_folder.resumed_config(path, overrides)
        show(read_inputs(cfg, backend, path))


def main(
    backend: Backend,
    train: Train,
    show: Callable[[Inputs], None],
    argv: list[str] | None = None,
) -> int:
    """The command line; returns the exit code: 0, 2 for bad input, 130 if stopped."""
    if argv is None:  # a program of its own, not a call from another
        use_one_heap()
    arguments = sys.argv[1:] if argv is None else argv
    verbose = "--verbose" in arguments
    # Outside the loop, which saves first, SIGTERM ends a run as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.setup_logging(None, verbose)  # until there is a run folder
    try:
        invocation = parse(arguments, prog=f"python -m {backend.name}.train")
        cfg = invocation.config
        if invocation.unused:
            names = ", ".join(invocation.unused)
            print(f"note: nothing here reads {names}", file=sys.stderr)
        if invocation.dry_run:
            _dry_run(backend, show, cfg, invocation.resume, invocation.overrides)
        else:
            run(backend, train, cfg, invocation.resume, invocation.overrides)
    except (ValueError, FloatingPointError, MemoryError) as error:
        if verbose:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    finally:
        console.close_logging()
        signal.signal(signal.SIGTERM, before)
    return 0
