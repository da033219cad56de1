"""One run of several processes: the first opens it, the others follow.

    with open_shared_run(cfg, resume, NAME, computed_by, given, peers) as run:
        ...

Every process reads the data by itself, and must find what the first found. The run's
folder lies where all of them see it; the first alone writes into it, but for what all
of them write together (the arrays of a checkpoint). A watchdog runs as long as the run
is open, with one process as well.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from shared.config.fields import Config
from shared.run.effects import require_effect
from shared.run.inputs import read_inputs
from shared.run.open_run import Run, find_run, is_export, open_run
from shared.run.peers import Peers, Stalled
from shared.run.watchdog import Watchdog
from shared.state import run_folder
from shared.state.checkpoints import steps_in
from shared.state.portable_state import check_state


@contextmanager
def open_shared_run(
    cfg: Config,
    resume: str,
    backend: str,
    computed_by: dict[str, str],
    given: dict[str, Any],
    peers: Peers,
) -> Iterator[Run]:
    """`open_run` in the first process, and the same run in every other one.

    Args: as of `open_run`; `peers` are the processes.

    Raises:
      ValueError: as there, in every process.
      Stalled: if a peer is gone.
    """
    wanted = (cfg, resume, backend, computed_by, given)
    with watchdog_of(cfg, peers) as watchdog:
        try:
            with ExitStack() as opened:
                if peers.is_first:
                    run = _open_first(opened, wanted, peers)
                else:
                    run = _follow(*wanted[:4], peers)
                run.peers, run.watchdog, watchdog.folder = peers, watchdog, run.path
                yield run
        except Exception as error:
            if peers.is_of_peers(error):
                missed, where = watchdog.missed(), watchdog.folder
                line = f"{missed}; go on: --resume {where}" if where else str(missed)
                raise Stalled(line, missed.code) from error
            raise


def watchdog_of(cfg: Config, peers: Peers) -> Watchdog:
    """The watchdog that a config asks for.

    The problems of an evaluation (`train.evaluate`) have a time of their own.
    """
    plan = cfg.train
    return Watchdog(
        factor=plan.watchdog,
        least=plan.watchdog_seconds,
        slack=len(plan.evaluate) * plan.evaluate_seconds,
        peers=peers,
    )


def _open_first(opened: ExitStack, wanted: tuple[Any, ...], peers: Peers) -> Run:
    found: list[Run] = []

    def open_it() -> dict[str, Any]:
        run = opened.enter_context(open_run(*wanted))
        found.append(run)
        return {"path": str(run.path.absolute()), "missing": run.missing_titles()}

    peers.told("run", open_it)
    return found[0]


def _follow(
    cfg: Config,
    resume: str,
    backend: str,
    computed_by: dict[str, str],
    peers: Peers,
) -> Run:
    """The run that the first process has opened, with inputs of one's own."""
    adopts, run = bool(resume) and is_export(Path(resume), backend), None
    if not resume:
        require_effect(cfg)
        run = Run(path=Path(), inputs=read_inputs(cfg, backend))
    elif not adopts:
        run = find_run(cfg, resume, backend)
    told = peers.told("run", _first_alone)
    path = Path(told["path"])
    if not (path / "config.yaml").is_file():
        raise ValueError(
            "output_dir must be a folder that all processes share, got a run of the "
            f"first that {peers.name} does not see: {path}"
        )
    if run is None:
        run = _follow_adopted(cfg, Path(resume), path, backend)
    named = replace(run.cfg, output_dir=str(path.parent), run_name=path.name)
    run.path, run.inputs = path, replace(run.inputs, cfg=named)
    if steps_in(path / "checkpoints"):
        run.adopted = None
    _require_same(run, peers)
    run.find_signals(computed_by, told["missing"])
    return run


def _first_alone() -> NoReturn:
    raise AssertionError("the first process alone makes this")


def _follow_adopted(cfg: Config, folder: Path, path: Path, backend: str) -> Run:
    before = check_state(folder).config
    inputs = read_inputs(cfg, backend, path)
    return Run(path=path, inputs=inputs, resumed=True, adopted=folder, before=before)


def _require_same(run: Run, peers: Peers) -> None:
    """Raises: ValueError, if this process does not read what the first has read."""
    first, ours = run_folder.recorded_inputs(run.path), run.inputs.digests
    differ = sorted(k for k in first | ours if first.get(k) != ours.get(k))
    if differ:
        raise ValueError(
            "every process must read the same inputs as the first, got another "
            f"{', '.join(differ)} in {peers.name}"
        )
