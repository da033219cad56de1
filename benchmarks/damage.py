"""What disks and crashes do to a file, and what each way of saving makes of it.

    python -m benchmarks.damage

Every file of a checkpoint is damaged in five ways, one at a time, and the checkpoint
read again: by both trainers, and by what they build upon. A row counts what came of it:
`told` (refused, with the file named), `failed` (refused otherwise), `silent` (other
numbers were returned as if nothing had been) and `unharmed` (the right ones were).
"""

import argparse
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

DAMAGES = ("flip", "truncate", "delete", "zero", "swap")


def harm(path: Path, how: str, other: Path, rng: random.Random) -> bool:
    """Damages one file; whether it is another file now.

    Args:
      how: one of `DAMAGES`: one bit turned over, cut at some place, gone, all bytes 0,
        or that of another step in its place.
      other: the same file of another step, which need not be there.
    """
    content = path.read_bytes()
    if how == "delete":
        path.unlink()
        return True
    damaged = bytearray(content)
    if how == "flip" and damaged:
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del damaged[rng.randrange(len(damaged)) if damaged else 0 :]
    elif how == "zero":
        damaged[:] = bytes(len(damaged))
    elif how == "swap" and other.is_file():
        damaged[:] = other.read_bytes()
    path.write_bytes(damaged)
    return bytes(damaged) != content


def harms(folder: Path, other: Path, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Each file of a folder damaged in each way: name and damage; whole afterwards.

    Args:
      other: the same of another step.
    """
    rng = random.Random(seed)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        for how in DAMAGES:
            if harm(path, how, other / name, rng):
                yield name, how
            path.write_bytes(content)


def outcomes(
    folder: Path, other: Path, read: Callable[[Path], object], same: object
) -> Counter[str]:
    """What `read` made of each damage.

    Args:
      same: what it returns for the whole folder, by `==`.
    """
    found: Counter[str] = Counter()
    for name, _ in harms(folder, other):
        try:
            result = read(folder)
        except Exception as error:  # of any library
            found["told" if Path(name).name in str(error) else "failed"] += 1
        else:
            found["unharmed" if result == same else "silent"] += 1
    return found


def main() -> None:
    """Trains a small model with both trainers and prints the table."""
    from benchmarks import savers
    from benchmarks.runs import print_table

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    asked = parser.parse_args()
    logging.disable()  # a line for every damage, of each library
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make, read in savers.SAVERS:
            place = Path(folder) / name.replace(" ", "-")
            place.mkdir()
            newer, older = make(place)
            counts = outcomes(newer, older, read, read(newer))
            files = sum(path.is_file() for path in newer.rglob("*"))
            kinds = ("told", "failed", "silent", "unharmed")
            row = {"saved by": name, "files": files, "damages": counts.total()}
            rows.append(row | {kind: counts[kind] for kind in kinds})
            shutil.rmtree(place)
    print_table(rows, asked.json)


if __name__ == "__main__":
    main()
