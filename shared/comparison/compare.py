"""The command `compare` of both trainers: plan, runs, report.

    read_arguments -> make_plan -> run_member of each -> write_report

Reads from top to bottom; `docs/comparison.md` says what a user sees.
"""

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from filelock import FileLock, Timeout

from shared.comparison.answers import regressions
from shared.comparison.differences import comparisons_of
from shared.comparison.grid import pilot
from shared.comparison.grid.arms import Arm
from shared.comparison.grid.asked import Asked, read_arguments
from shared.comparison.grid.estimate import disk_of, known_rates, seconds_of
from shared.comparison.grid.found import Member, Plan, read_found, write_plan
from shared.comparison.grid.plan import Arms, Measured, make_plan
from shared.comparison.grid.running import Stopped, jobs_of, run_member
from shared.comparison.report import lines, write_report
from shared.comparison.tracked import track
from shared.evaluation.asked import versions_of
from shared.files import cannot_write
from shared.run.main import Outcome, exit_code
from shared.tracking import console
from shared.tracking.console import Progress

FAILED = 1  # exit code where a run has failed
REGRESSED = 3  # that of --fail-on-regression


def main(argv: Sequence[str], backend: str, doc: str, computes: Sequence[str]) -> int:
    """The command line; the exit code: 0, 1 if a run has failed, 2 for bad input.

    3 is for a regression.

    Args:
      backend: package of the trainer.
      doc: of the command, for `--help`.
      computes: libraries whose versions are told.
    """
    with exit_code(list(argv)) as outcome:
        asked = read_arguments(argv, backend, doc)
        if asked.report_only:
            report(asked, outcome)
        else:
            compare(asked, backend, versions_of(*computes), outcome)
    return outcome.code


def compare(
    asked: Asked, backend: str, versions: dict[str, str], outcome: Outcome
) -> None:
    """Plans, runs what is missing, reports.

    Raises:
      ValueError: for anything the user can mend, before anything is written.
    """
    deadline = time.monotonic() + 3600 * asked.hours if asked.hours else math.inf

    def measure(arms: Sequence[Arm], known: Arms) -> Measured:
        if asked.dry_run:
            raise ValueError(
                "--budget seconds is known after short runs of each algorithm: "
                "--dry-run needs another, got seconds"
            )
        with held(asked.folder):
            return pilot.measure(arms, known, asked, backend, deadline)

    plan, known = make_plan(asked, backend, machine_of(versions), measure)
    show_plan(plan, known, asked)
    if asked.dry_run:
        return
    with held(asked.folder):
        write_plan(asked.folder, plan)
        try:
            run_all(plan, asked, deadline)
        finally:  # what is there is reported, whatever has ended the grid
            report(asked, outcome)


def run_all(plan: Plan, asked: Asked, deadline: float) -> None:
    """Runs every member that is not there, in the order of the plan."""
    total = len(plan.members)
    with Progress(total, "compare", every=1, unit="run") as progress:
        for done, member in enumerate(plan.members):
            if not jobs_of(asked.folder, plan, member, asked):
                progress.update(done + 1)
                continue
            try:
                run_member(
                    asked.folder, plan, member, asked, deadline, _told(progress, done)
                )
            except Stopped:
                console.say(
                    f"--hours {asked.hours:g} are over: {total - done} runs are left; "
                    "the same command goes on"
                )
                return
            progress.update(done + 1)


def _told(progress: Progress, done: int) -> Callable[[Member, str], None]:
    def told(member: Member, what: str) -> None:
        seed = "" if member.seed is None else f", seed {member.seed}"
        progress.update(done, now=f"{what} {member.arm}{seed}")

    return told


def _seconds_left(plan: Plan, members: Sequence[Member], asked: Asked) -> float:
    rates = known_rates(asked.folder, plan)
    return sum(
        seconds_of(plan, member, job.what, rates)
        for member in members
        for job in jobs_of(asked.folder, plan, member, asked)
    )


def show_plan(plan: Plan, known: Arms, asked: Asked) -> None:
    """The arms with their share of the budget; time and disk of what is left."""
    rows: list[list[object]] = []
    for arm in plan.arms:
        of = [member for member in plan.members if member.arm == arm.name]
        there = sum(not jobs_of(asked.folder, plan, x, asked) for x in of)
        share = plan.shares.get(arm.name)
        ahead = "-"
        if share and share.before.flops:
            ahead = f"{share.before.flops / 1e12:.3g}"
        each = f"{share.step.flops / 1e12:.3g}" if share else "-"
        steps: object = share.steps if share else "-"
        rows.append([arm.name, len(of), there, steps, each, ahead])
    columns = ("arm", "runs", "there", "steps", "TFLOPs a step", "TFLOPs before")
    budget = plan.budget
    amount = console.number(float(budget.amount))
    console.table(f"{amount} {budget.kind} each", columns, rows)
    if any(share.before.steps for share in plan.shares.values()):
        paid = "is paid from" if budget.preparing == "counts" else "comes beside"
        console.say(f"What comes before the first step {paid} the budget.")
    left = [x for x in plan.members if jobs_of(asked.folder, plan, x, asked)]
    seconds = _seconds_left(plan, left, asked)
    disk = disk_of(known, plan, asked.keep, left) / 2**30
    console.say(
        f"{len(left)} of {len(plan.members)} runs are left: about "
        f"{console.duration(seconds)}, at most {disk:.1f} GiB in {asked.folder}"
    )


def report(asked: Asked, outcome: Outcome) -> None:
    """Writes the report of what is there, says the answer and where it is."""
    found = read_found(asked.folder)
    comparisons = comparisons_of(found)
    write_report(found, comparisons)
    if any(one.state == "failed" for one in found.outcomes):
        outcome.code = FAILED
    for line in lines(found, comparisons):
        console.say(line)
    console.say(f"report: {asked.folder / 'report.html'}")
    if ui := track(found):
        console.say(f"see the runs: {ui}")
    if asked.regression is not None:
        for line in regressions(found, *asked.regression, comparisons):
            console.say(f"regression: {line}", sys.stderr)
            outcome.code = REGRESSED


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the folder of the comparison, which no other call may work in.

    Raises:
      ValueError: if one does, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"only one compare may work in a folder, got {folder}, where another does"
        ) from None
    except OSError as error:
        raise cannot_write("--to must be a folder to write", folder, error) from None
    try:
        yield
    finally:
        lock.release()


def machine_of(versions: dict[str, str]) -> dict[str, str]:
    """Processor, system, versions and date."""
    return {
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "date": date.today().isoformat(),
        **versions,
    }


def processor() -> str:
    """Its name, where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
