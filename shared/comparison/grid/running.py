"""Runs what is missing of a comparison, one run after the other, each by itself.

Every run is a process of its own: one that fails, for want of memory too, ends nothing
else, and gives back all it held. Whatever stops the grid, the next call goes on: a run
that is there is not run again, one that was under way goes on at its checkpoint.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared.comparison.grid.arms import NTP
from shared.comparison.grid.asked import Asked
from shared.comparison.grid.found import (
    Member,
    Outcome,
    Plan,
    evaluated_folder,
    failure_file,
    is_trained,
    read_outcome,
    run_folder,
)
from shared.files import write_json
from shared.run.stops import CODES
from shared.state import run_folder as run_folders
from shared.tracking import console

CHILD = "shared.comparison.grid.child"
Told = Callable[[Member, str], None]


class Stopped(Exception):
    """The time is over; what was under way is kept."""


@dataclass(frozen=True)
class Job:
    """One process of a run: what it does, and what it is called with.

    Attributes:
      what: `train`, `evaluate` or `acceptance`.
      command: the module and its arguments.
    """

    what: str
    command: tuple[str, ...]


def run_member(
    folder: Path, plan: Plan, member: Member, asked: Asked, deadline: float, told: Told
) -> Outcome:
    """Trains and evaluates what one member lacks.

    Args:
      deadline: of `time.monotonic`; infinity is none.
      told: what is being done, now and then.

    Returns:
      What it has left; `failed` with the reason if a process of it has failed.

    Raises:
      Stopped: at the deadline.
    """
    log = folder / "logs" / f"{member.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    failure_file(folder, member).unlink(missing_ok=True)
    if is_trained(folder, member) and lacks_model(folder, plan, member):
        shutil.rmtree(run_folder(folder, member))
    for job in jobs_of(folder, plan, member, asked):
        told(member, job.what)
        wait_for_folder(run_folder(folder, member), deadline)
        began = time.monotonic()
        code = run_job(job, log, deadline)
        if code in CODES:
            raise KeyboardInterrupt  # somebody else has told it to stop
        if code:
            why = f"{job.what}: {_last_error(log)} (exit code {code}; {log})"
            keep_failure(folder, member, why)
            return read_outcome(folder, plan, member)
        note_seconds(folder, member, job.what, time.monotonic() - began)
    tidy(folder, member, asked.keep)
    return read_outcome(folder, plan, member)


def jobs_of(folder: Path, plan: Plan, member: Member, asked: Asked) -> list[Job]:
    """What is left to do of a member."""
    if plan.arm(member.arm).kind == "files":
        return []
    jobs, run = [], run_folder(folder, member)
    again = lacks_model(folder, plan, member)
    if not is_trained(folder, member) or again:
        command = member.command
        if (run / "config.yaml").is_file() and not again:
            command = (f"{plan.backend}.train", "--resume", str(run))
        jobs.append(Job("train", command))
    there = evaluated_folder(folder, member)
    compiled = ("--compiled", str((folder / "runs" / "compiled").absolute()))
    writes = plan.backend == "wmtp_jax"
    if not is_evaluated(folder, plan, member):
        own = ("--model", member.model, "--to", str(there), "--tracking", "none")
        command = (f"{plan.backend}.evaluate", *own, *plan.evaluate)
        jobs.append(Job("evaluate", command + compiled * writes))
    file = there / "acceptance.json"
    if asked.acceptance and _has_heads(plan, member) and not file.is_file():
        command = (f"{plan.backend}.acceptance", "--model", member.model)
        command += ("--data", plan.data, "--prompts", str(asked.acceptance))
        command += ("--drafters", "heads", "--tokens", "64", "--json", str(file))
        jobs.append(Job("acceptance", command + compiled))
    return jobs


def is_evaluated(folder: Path, plan: Plan, member: Member) -> bool:
    """Whether it has the results of every task."""
    there = evaluated_folder(folder, member)
    return all((there / f"{task}.jsonl").is_file() for task in plan.tasks)


def lacks_model(folder: Path, plan: Plan, member: Member) -> bool:
    """Whether a run that has ended is to be evaluated, but was tidied away.

    So it is where another evaluation is asked for later: it is trained again.
    """
    if not member.command or not is_trained(folder, member):
        return False
    model = Path(member.model)  # a run, or one of its checkpoints
    if model == run_folder(folder, member):
        places = [model / "model", model / "checkpoints"]
    else:
        places = [model]
    there = any(place.is_dir() for place in places)
    return not there and not is_evaluated(folder, plan, member)


def _has_heads(plan: Plan, member: Member) -> bool:
    return plan.arm(member.arm).kind == "trained" and member.arm != NTP


def run_job(job: Job, log: Path, deadline: float) -> int:
    """Runs one process with its output in a file; its exit code.

    Ctrl-C, SIGTERM and the deadline tell it to stop, and wait until it has saved.

    Raises:
      KeyboardInterrupt: if it was stopped by the user.
      Stopped: if it was at the deadline.
    """
    with open(log, "a", encoding="utf-8") as out:
        out.write(f"$ python -m {' '.join(job.command)}\n")
        out.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD, str(os.getpid()), *job.command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            left = deadline - time.monotonic()
            return process.wait(None if left == float("inf") else max(0.0, left))
        except subprocess.TimeoutExpired:
            _stop(process)
            raise Stopped from None
        except KeyboardInterrupt:
            _stop(process)
            raise


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Tells it to save and end; a second Ctrl-C ends it at once."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()


def wait_for_folder(run: Path, deadline: float) -> None:
    """Waits while another process holds a run, such as one whose grid was killed.

    Raises:
      Stopped: if the deadline comes first.
    """
    said = False
    while (run / ".lock").exists():
        try:
            run_folders.lock(run).release()
            return
        except ValueError as error:
            if not said:
                console.say(f"waiting: {error}")
            said = True
        if time.monotonic() > deadline:
            raise Stopped
        time.sleep(1)


def keep_failure(folder: Path, member: Member, why: str) -> None:
    """Keeps why a member is not there, for the report."""
    file = failure_file(folder, member)
    file.parent.mkdir(parents=True, exist_ok=True)
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    write_json(file, {"why": why, "when": when, "command": list(member.command)})


def _last_error(log: Path) -> str:
    """What a process has said last, its own word for an error before anything else."""
    lines = log.read_text("utf-8", errors="replace").rpartition("\n$ python -m ")[2]
    told = [line.strip() for line in lines.splitlines()[1:] if line.strip()]
    errors = [line for line in told if line.startswith("error: ")]
    said = (errors or told or ["no message"])[-1].removeprefix("error: ")
    return said if len(said) <= 300 else said[:300] + " ..."


def note_seconds(folder: Path, member: Member, what: str, seconds: float) -> None:
    """Keeps how long a process took, for the estimate of what is left."""
    line = {"arm": member.arm, "name": member.name, "what": what}
    line |= {"seconds": round(seconds, 1)}  # type: ignore[dict-item]
    with open(folder / "took.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def tidy(folder: Path, member: Member, keep: str) -> None:
    """Removes what nothing reads any more of a run that has ended and is evaluated."""
    run = run_folder(folder, member)
    if keep == "all" or not member.command:
        return
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    if keep == "results":
        shutil.rmtree(run / "model", ignore_errors=True)
