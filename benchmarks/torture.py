"""Kills a run again and again, and counts what every kill has cost.

    python -m benchmarks.torture --kills 200 --json benchmarks/results/kills.json

A small run of 12 steps, saved every 3, is killed by SIGKILL: a third of the
times at some file operation inside a save, a third in a step, a third at any moment.
Each time it goes on by `--resume`. In the end all that its last checkpoint holds must
be what a run that nothing ever killed holds, by SHA-256. `lost` counts kills by the
steps that had been logged and were made again.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.states import digest_of
from shared.state.checkpoints import steps_in

TRAINERS = ("wmtp_jax", "wmtp_torch_mps")
STEPS, SAVE_EVERY = 12, 3
SMALL = (
    "--model smoke --model.num-layers 1 --model.width 16 --heads 2 "
    f"--data.max-length 32 --tracking jsonl --train.max-steps {STEPS} --device cpu "
    f"--train.save-every {SAVE_EVERY} --train.eval-every 6 --train.epochs 9 "
    "--critic.stage1-epochs 1 --reference.epochs 1 --train.no-export --run-name run"
).split()
# Of Python's own reports of what it does to files.
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir"}
KINDS = ("save", "step", "any")


# --- the side that is killed ----------------------------------------------------------


def serve(package: str) -> None:
    """Forks a trainer for every line of stdin, and says how it ended.

    The slow imports are made once: nothing of them computes, so that a fork is whole.
    """
    for name in (f"{package}.training", "tokenizers", "transformers", "tyro"):
        import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.monotonic()
        process = os.fork()
        if process == 0:
            run_killed(package, asked)
        status = wait(process, asked.get("after"))
        took = time.monotonic() - began
        print(json.dumps({"status": status, "seconds": took}), flush=True)


def wait(process: int, after: float | None) -> int:
    """The status of a process, which is killed when so many seconds are over."""
    if after is not None:
        opened = os.pidfd_open(process)
        ended, _, _ = select.select([opened], [], [], after)
        os.close(opened)
        if not ended:
            os.kill(process, signal.SIGKILL)
    return os.waitpid(process, 0)[1]


def run_killed(package: str, asked: dict[str, Any]) -> None:
    """A trainer that kills itself at the moment asked for."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    if "save" in asked:
        kill_in_save(import_module(f"{package}.checkpoint"), **asked["save"])
    if "step" in asked:
        kill_in_step(asked["step"])
    os._exit(import_module(f"{package}.train").main(asked["argv"]))


def kill_in_save(checkpoint: Any, number: int, event: int) -> None:
    """At the `event`-th file operation of the `number`-th save."""
    save, count = checkpoint.save, Counter[str]()

    def counted(*arguments: Any, **options: Any) -> None:
        count["saves"] += 1
        count["inside"] = 1
        save(*arguments, **options)
        count["inside"] = 0

    def told(name: str, _: tuple) -> None:
        if count["inside"] and count["saves"] == number and name in EVENTS:
            count["events"] += 1
            if count["events"] == event:
                os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save = counted
    sys.addaudithook(told)


def kill_in_step(step: int) -> None:
    """Once the step is made and before it is logged."""
    from shared.run.loop import Loop

    log = Loop.log

    def killed(self: Any, number: int, *arguments: Any) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        log(self, number, *arguments)

    Loop.log = killed  # type: ignore[method-assign]


# --- the side that kills --------------------------------------------------------------


@contextmanager
def server(package: str) -> Iterator[Any]:
    """What runs a trainer: `(argv, moment) -> (killed, exit code, seconds)`."""
    command = [sys.executable, "-m", "benchmarks.torture", "--serve", package]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    pipes["stderr"] = subprocess.DEVNULL
    # What is computed is small: more threads would wait for each other.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:

        def run(argv: list[str], **moment: Any) -> tuple[bool, int, float]:
            process.stdin.write(json.dumps({"argv": argv, **moment}) + "\n")
            process.stdin.flush()
            told = json.loads(process.stdout.readline())
            status = told["status"]
            killed = os.WIFSIGNALED(status)
            return killed, 0 if killed else os.WEXITSTATUS(status), told["seconds"]

        try:
            yield run
        finally:
            process.stdin.close()
            process.kill()


def torture(
    package: str, kills: int, folder: Path, algo: str, seed: int = 0
) -> dict[str, Any]:
    """Kills a run `kills` times; a row of the table.

    Raises:
      AssertionError: if the end is not that of the run that nothing killed, or if a
        run fails by itself.
    """
    rng, lost, kinds = random.Random(seed), Counter[int](), Counter[str]()
    with server(package) as run:
        new = [*SMALL, "--algo", algo, "--output-dir"]
        _, code, whole_takes = run([*new, str(folder / "whole")])
        assert code == 0, code
        killed_run = folder / "killed" / "run"
        while kinds.total() < kills:
            kind = KINDS[kinds.total() % len(KINDS)]
            moment = moment_of(kind, rng, whole_takes)
            killed, code, _ = run(argv_of(killed_run, new), **moment)
            assert killed or code == 0, f"{kind} {moment}: exit code {code}"
            if killed:
                kinds[kind] += 1
                lost[steps_lost(killed_run)] += 1
            else:
                go_back(killed_run, rng)
        _, code, _ = run(argv_of(killed_run, new))
        assert code == 0, code
    ends = [
        digest_of(package, x, STEPS) for x in (folder / "whole" / "run", killed_run)
    ]
    assert ends[0] == ends[1], "the end is another"
    told = {str(steps): lost[steps] for steps in sorted(lost)}
    return {"trainer": package, "kills": kinds.total(), **kinds, "lost": told} | {
        "sha256": ends[1]
    }


def moment_of(kind: str, rng: random.Random, whole_takes: float) -> dict[str, Any]:
    if kind == "save":
        return {"save": {"number": rng.randint(1, 2), "event": rng.randint(1, 40)}}
    if kind == "step":
        return {"step": rng.randint(1, STEPS)}
    return {"after": rng.uniform(0, whole_takes)}


def argv_of(run: Path, new: list[str]) -> list[str]:
    started = (run / "config.yaml").exists()
    return ["--resume", str(run)] if started else [*new, str(run.parent)]


def steps_lost(run: Path) -> int:
    """Steps that were logged after the newest checkpoint."""
    file = run / "metrics.jsonl"
    logged = file.read_bytes().count(b"\n") - 1 if file.exists() else 0
    return max(0, logged - max(steps_in(run / "checkpoints"), default=0))


def go_back(run: Path, rng: random.Random) -> None:
    """A run that came to its end is there as it was at an earlier checkpoint."""
    steps = steps_in(run / "checkpoints")
    for late in steps[rng.randint(1, len(steps) - 1) :]:
        shutil.rmtree(run / "checkpoints" / str(late))
    (run / "summary.json").unlink(missing_ok=True)


def main() -> None:
    """Kills a run of each trainer and prints what it has cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trainers", nargs="+", choices=TRAINERS, default=TRAINERS)
    parser.add_argument("--algo", choices=workload.ALGOS, default="critic")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--serve", choices=TRAINERS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    from benchmarks.runs import print_table

    rows = []
    for package in asked.trainers:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(torture(package, asked.kills, Path(folder), asked.algo))
    print_table(rows, asked.json)


if __name__ == "__main__":
    main()
