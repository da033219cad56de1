"""Trainers of several processes on this machine, which meet at its loopback."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How one process ended: its code, what it said, when (by `time.time`)."""

    code: int
    out: str
    err: str
    at: float


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def trained_by(
    count: int,
    folder: Path,
    *options: str,
    fault: str = "",
    stays: tuple[int, ...] = (),
    seconds: float = 400,
) -> list[Ended]:
    """Runs so many processes of `wmtp_jax.train` until they end.

    Args:
      folder: for what they say.
      fault: `PROCESS:STEP:WHAT`, as in `tests/faulty.py`.
      stays: processes that do not end by themselves; they are killed at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module = ["-m", "tests.faulty" if fault else "wmtp_jax.train"]
    address = f"127.0.0.1:{free_port()}"
    started = []
    for index in range(count):
        place = ["--distributed", address, "--processes", str(count)]
        said = [open(folder / f"{index}.{kind}", "w") for kind in ("out", "err")]
        started.append(
            subprocess.Popen(
                [sys.executable, *module, *options, *place, "--process", str(index)],
                stdout=said[0],
                stderr=said[1],
                env=os.environ | ({"FAULT": fault} if fault else {}),
            )
        )
        for file in said:
            file.close()
    try:
        ends = _wait(started, stays, time.monotonic() + seconds)
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [
        Ended(
            process.returncode,
            (folder / f"{index}.out").read_text(),
            (folder / f"{index}.err").read_text(),
            ends.get(index, time.time()),
        )
        for index, process in enumerate(started)
    ]


def _wait(started, stays, until) -> dict[int, float]:
    """When each of them ended."""
    ends: dict[int, float] = {}
    wanted = set(range(len(started))) - set(stays)
    while wanted - set(ends) and time.monotonic() < until:
        time.sleep(0.1)
        for index, process in enumerate(started):
            if index not in ends and process.poll() is not None:
                ends[index] = time.time()
    assert not wanted - set(ends), f"processes {wanted - set(ends)} did not end"
    return ends


def fault_at(ended: list[Ended]) -> float:
    """When the fault of `tests/faulty.py` came."""
    lines = [line for x in ended for line in x.err.splitlines()]
    return float(next(x for x in lines if x.startswith("fault ")).split()[1])
