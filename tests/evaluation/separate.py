"""Runs hostile programs in a process of its own, as a plain user if that is asked for.

    python -m tests.evaluation.separate [--plain] [--walls WALL,...] [NAME ...]

With `--plain` root becomes nobody first. Where Python stands in a folder that only root
may enter, the process gets a mount namespace in which that folder shows Python alone.
Without `--walls` the strongest level that holds is taken. Writes a line of JSON per
program: level, family, name, outcome, what escaped.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from shared.evaluation.walls.inside import namespaces
from shared.evaluation.walls.inside.kernel import PR_SET_DUMPABLE, checked, libc
from shared.evaluation.walls.levels import LADDER, Level
from shared.evaluation.walls.probe import weakness
from tests.evaluation.hostiles import attempt, hostiles
from tests.evaluation.world import World

NOBODY = 65534


def closed_folder(path: Path) -> Path | None:
    """The uppermost folder on the way that others may not enter."""
    way = [*reversed(path.parents), path]
    return next((x for x in way if not x.stat().st_mode & 1), None)


def show_python() -> None:
    """Makes Python's folder one that nobody can enter, in this process's view."""
    prefix = Path(sys.base_prefix)
    closed = closed_folder(prefix)
    if closed is None:
        return
    checked(libc.unshare(namespaces.MOUNTS), "mounts")
    namespaces.mount("none", "/", None, namespaces.RECURSIVE | namespaces.PRIVATE)
    kept = os.open(prefix, os.O_PATH)
    namespaces.mount("tmpfs", str(closed), "tmpfs", 0, "mode=755")
    prefix.mkdir(parents=True)
    namespaces.mount(f"/proc/self/fd/{kept}", str(prefix), None, namespaces.BIND)
    os.close(kept)


def become_plain() -> None:
    """From root to nobody; others stay who they are."""
    if os.geteuid() == 0:
        show_python()
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)


def asked_for() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--plain", action="store_true")
    parser.add_argument(
        "--walls", type=lambda text: tuple(filter(None, text.split(",")))
    )
    parser.add_argument("names", nargs="*")
    return parser.parse_args()


def main() -> None:
    asked = asked_for()
    if asked.plain:
        become_plain()
    if asked.walls is None:
        level = next((x for x in LADDER if not weakness(x)), None)
    else:
        level = Level("+".join(asked.walls), asked.walls)
    if level is None:
        print(json.dumps({"skipped": weakness(LADDER[0])}))
        return
    for hostile in hostiles():
        if asked.names and hostile.name not in asked.names:
            continue
        with tempfile.TemporaryDirectory() as folder, World(Path(folder)) as world:
            verdict, escaped = attempt(hostile, world, level)
        told = {"level": level.name, "family": hostile.family, "name": hostile.name}
        told |= {"outcome": verdict.results[0].outcome, "escaped": escaped}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
