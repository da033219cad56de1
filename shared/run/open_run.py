"""A run folder that is held: made or found again, locked, with its inputs and log.

cfg = config_in_force(cfg, resume, overrides, NAME)
with open_run(cfg, resume, NAME, computed_by) as run:
    ...
"""

import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.config.layers import dump_config, load_config
from shared.data.tokenizer import load_tokenizer
from shared.files import clear_leftovers, write_text
from shared.huggingface.generation import read_generation
from shared.json_text import read_object
from shared.messages import os_error_line
from shared.run.effects import log_without_effect, require_effect
from shared.run.inputs import Inputs, read_inputs
from shared.run.peers import ALONE, Peers
from shared.run.report import finish, log_inputs, log_signals, summarize
from shared.run.watchdog import Watchdog
from shared.signals.columns import needed
from shared.signals.kept import Signals, keep_signals, read_signals
from shared.signals.measure import collect, passes_of
from shared.signals.passes import FrozenModel, Pass
from shared.state import run_folder
from shared.state.checkpoints import (
    Progressed,
    clear_unfinished,
    require_step,
    steps_in,
)
from shared.state.header import read_header
from shared.state.model_source import keep_token_map, keep_tokenizer
from shared.state.portable_state import check_state, is_state, read_state
from shared.tracking import console

log = logging.getLogger("wmtp")


@dataclass(kw_only=True)
class Run:
    """One run, while its trainer holds the folder.

    Attributes:
      path: its folder.
      cfg, inputs: what it runs and on what.
      resumed: whether it goes on with an earlier session.
      step: of the checkpoint that was asked for; None is the newest.
      adopted: the exported folder whose state becomes its first checkpoint, if any.
      before: the config that a resumed run had until now.
      started: by `time.perf_counter`.
      seconds_before_steps: what came before the loop of a new run: its signals, its
        reference, its value head.
      peers: the processes that train it, seen from this one.
      watchdog: of this process.
    """

    path: Path
    inputs: Inputs
    resumed: bool = False
    step: int | None = None
    adopted: Path | None = None
    before: Config | None = None
    started: float = field(default_factory=time.perf_counter)
    seconds_before_steps: float | None = None
    peers: Peers = ALONE
    watchdog: Watchdog = field(default_factory=lambda: Watchdog(factor=0, least=1))
    _passes: list[Pass] = field(default_factory=list)
    _kept: Signals | None = None

    @property
    def cfg(self) -> Config:
        return self.inputs.cfg

    def find_signals(
        self, computed_by: dict[str, str], missing: list[str] | None = None
    ) -> None:
        """Reads the signals that the run has kept, or what caches hold of them.

        Args:
          missing: titles of the passes that the first process misses, in another one:
            it measures them too, and writes nothing.
        """
        cfg, scored = self.cfg, self.inputs.scored
        folder = self.path / "signals"
        if needed(cfg):
            self._kept = read_signals(folder, cfg.algorithm.signals, scored)
        if self._kept is None:
            self._passes = passes_of(cfg, self.inputs.models, computed_by)
            for wanted in self._passes:
                wanted.writes = missing is None
                wanted.read()
                if missing is not None:
                    wanted.follow(wanted.title in missing)

    def missing_titles(self) -> list[str]:
        """What `find_signals` of the other processes has to know."""
        return [x.title for _, passes in self.missing() for x in passes]

    def missing(self) -> list[tuple[FrozenModel, list[Pass]]]:
        """The passes that no cache holds, by the model that is asked."""
        left = [wanted for wanted in self._passes if wanted.values is None]
        return [
            (model, asked)
            for model in self.inputs.models.values()
            if (asked := [wanted for wanted in left if wanted.model is model])
        ]

    def signals(self) -> Signals:
        """Its signals, from now on kept in its folder; nothing may be `missing`."""
        if self._kept is None:
            self._kept = collect(self.cfg, self._passes, self.inputs.scored)
            if self._kept.columns and self.peers.is_first:
                keep_signals(self.path / "signals", self._kept, self.inputs.scored)
        log_signals(self._kept)
        return self._kept

    def finish(
        self,
        done: Progressed,
        steps: int,
        num_steps: int,
        machine: dict[str, Any],
        ui_command: str,
        exported: int | None,
    ) -> dict[str, Any]:
        """Writes `summary.json` and says how it ended; returns the summary.

        Args:
          steps: made so far, of `num_steps`.
          machine: what the backend adds: parameters, device, peak memory, versions.
          exported: the step whose model was exported, if any.
        """
        signals = self._kept or Signals()
        summary = summarize(self.inputs, signals, done, steps, num_steps, machine)
        summary["exported_step"] = exported
        summary["seconds_before_steps"] = self.seconds_before_steps
        summary["seconds"] = round(time.perf_counter() - self.started, 1)
        finish(self.path, self.cfg, summary, ui_command)
        return summary

    def keep_changes(self) -> None:
        """What was changed on the way stays changed at the next resume.

        Called when nothing can refuse the run any more.
        """
        file, cfg = self.path / "config.yaml", self.cfg
        saved = load_config(file)
        if replace(saved, output_dir=cfg.output_dir, run_name=cfg.run_name) != cfg:
            write_text(file, dump_config(cfg))

    def finished_already(
        self, done: Progressed, start: int, num_steps: int
    ) -> dict | None:
        """The summary of a run whose checkpoint is its end; None if it goes on."""
        file, patience = self.path / "summary.json", self.cfg.train.patience
        early = 0 < patience <= done.worse
        if not (early or start >= num_steps) or not file.exists():
            return None
        why = f" (train.patience = {patience} has ended it)" if early else ""
        log.info("the run is finished: nothing to go on with in %s%s", self.path, why)
        return read_object(file)


def config_in_force(
    cfg: Config, resume: str, overrides: dict[str, Any], backend: str
) -> Config:
    """`cfg`, or with `resume` the saved config of what goes on; nothing is written.

    Args:
      resume: a run or checkpoint, or an exported folder of either backend; of `cfg`
        only output_dir is read then.
      overrides: fields given explicitly; of an export the machine's may change too.

    Raises:
      ValueError: if there is no such run, the other backend has written it, or a field
        may not change.
    """
    if not resume:
        return cfg
    if is_export(Path(resume), backend):
        header, _ = read_header(Path(resume))
        changed = run_folder.changed_config(
            header.config, overrides, resume, free=("machine.",)
        )
        name = overrides.get("run_name", "")
        return replace(changed, output_dir=cfg.output_dir, run_name=name)
    path, step = run_folder.find(resume, cfg.output_dir)
    run_folder.check_backend(
        path, backend, "to go on: export it there, --resume the folder here"
    )
    if step is not None:  # before all the data is read
        require_step(path / "checkpoints", steps_in(path / "checkpoints"), step)
    saved = run_folder.resumed_config(path, overrides)
    if overrides.get("run_name", path.name) != path.name:
        raise ValueError(
            f"run_name must be that of the run that goes on, {path.name!r}, got "
            f"{overrides['run_name']!r} (a new run goes on from an export)"
        )
    return replace(saved, output_dir=str(path.parent), run_name=path.name)


@contextmanager
def open_run(
    cfg: Config,
    resume: str,
    backend: str,
    computed_by: dict[str, str],
    given: dict[str, Any],
) -> Iterator[Run]:
    """Makes the folder of a new run, or finds that of a resumed one, and holds it.

    Args:
      cfg: as `config_in_force` gives it.
      resume: as there.
      backend: package of the trainer.
      computed_by: kind of the device and versions of the library that computes, by
        which signals are known.
      given: fields of files and options; it is said which of them nothing reads.

    Raises:
      ValueError: for anything the user can mend. Nothing is left behind of a run that
        was to be made of a folder and came to no checkpoint.
    """
    if not resume:
        require_effect(cfg)
        inputs = read_inputs(cfg, backend)

        def keep_digests(path: Path) -> None:
            run_folder.check_inputs(path, inputs.digests)

        path, named, _ = run_folder.create(inputs.cfg, keep_digests)
        run = Run(path=path, inputs=replace(inputs, cfg=named))
    elif is_export(Path(resume), backend):
        run = _adopt(cfg, Path(resume), backend)
    else:
        run = find_run(cfg, resume, backend)
    held = run_folder.lock(run.path)
    try:
        if steps_in(run.path / "checkpoints"):
            run.adopted = None
        clear_leftovers(run.path)
        run_folder.check_inputs(run.path, run.inputs.digests)
        keep_tokenizer(run.path, run.inputs.tokenizer)
        keep_token_map(run.path, run.cfg, run.inputs.splits["train"])
        console.setup_logging(run.path, run.cfg.verbose)
        clear_unfinished(run.path / "checkpoints")
        log_inputs(run.inputs)
        log_without_effect(run.cfg, given, backend)
        run.find_signals(computed_by)
        yield run
    except BaseException as error:
        kept = steps_in(run.path / "checkpoints")
        if run.adopted and not kept:
            shutil.rmtree(run.path, ignore_errors=True)
        elif isinstance(error, OSError):
            raise OSError(
                f"{os_error_line(error)} ({_kept(run.path, kept)})"
            ) from error
        raise
    finally:
        console.close_logging()
        held.release()


def look(cfg: Config, resume: str, backend: str) -> Inputs:
    """What `--dry-run` looks at: the inputs of a run that is not made.

    Args: as of `open_run`.
    """
    if resume and is_export(Path(resume), backend):
        read_state(Path(resume))
        with tempfile.TemporaryDirectory() as folder:
            there = replace(cfg, output_dir=folder)
            inputs = _adopt(there, Path(resume), backend).inputs
        return replace(inputs, cfg=replace(inputs.cfg, output_dir=cfg.output_dir))
    path = Path(cfg.output_dir) / cfg.run_name if resume else None
    if not resume:
        require_effect(cfg)
    return read_inputs(cfg, backend, path)


def find_run(cfg: Config, resume: str, backend: str) -> Run:
    """The run that goes on, its inputs held against those that it was started with."""
    path, step = Path(cfg.output_dir) / cfg.run_name, run_folder.named_step(resume)
    adopted = run_folder.origin_of(path)
    inputs = read_inputs(cfg, backend, path)
    if run_folder.recorded_inputs(path):  # said before anything is written
        run_folder.check_inputs(path, inputs.digests)
    before = load_config(path / "config.yaml")
    return Run(
        path=path,
        inputs=inputs,
        resumed=True,
        step=step,
        adopted=adopted,
        before=before,
    )


def _adopt(cfg: Config, folder: Path, backend: str) -> Run:
    """A new run that goes on from an exported folder, whichever backend has written it.

    Model, moments, position in the data, signals and tokenizer come along, so that the
    run needs neither the folder nor any reference afterwards.
    """
    header = check_state(folder)

    def fill(path: Path) -> Inputs:
        run_folder.check_inputs(path, header.inputs | {"backend": backend})
        if (folder / "signals").is_dir():
            shutil.copytree(folder / "signals", path / "signals")
        tokenizer = load_tokenizer("bytes")
        if header.inputs.get("tokenizer") != tokenizer.digest:
            tokenizer = load_tokenizer(str(folder))
        generation = read_generation(folder)
        keep_tokenizer(path, replace(tokenizer, generation=generation))
        run_folder.note_origin(path, folder)
        inputs = read_inputs(cfg, backend, path)
        run_folder.check_inputs(path, inputs.digests)
        return inputs

    path, named, inputs = run_folder.create(cfg, fill)
    inputs = replace(inputs, cfg=named)
    before = header.config
    return Run(path=path, inputs=inputs, resumed=True, adopted=folder, before=before)


def _kept(path: Path, steps: list[int]) -> str:
    """What is left of a run that the disk has ended."""
    if not steps:
        return f"{path} has no checkpoint"
    return f"the checkpoint of step {steps[-1]} is kept; go on: --resume {path}"


def is_export(path: Path, backend: str) -> bool:
    """Whether a new run has to be made of it; not so a checkpoint of a run of ours."""
    run = path.absolute().parent.parent
    own = run_folder.recorded_inputs(run).get("backend") == backend
    return is_state(path) and not (own and path.absolute().parent.name == "checkpoints")
