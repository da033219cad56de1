#!/usr/bin/env python
"""Builds the fingerprints of benchmarks that `shared/data/contamination.py` reads.

    python tests/script/build_fingerprints.py mbpp_test=FILE humaneval=FILE

A maintainer's tool, for when the benchmarks or the fingerprints' kinds change: run it
from the root of the checkout on the test problems of each benchmark, then commit the
file that it writes.
"""

import argparse
import base64
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shared.data import contamination
from shared.data.contamination import FINGERPRINTS, KINDS, prints_of, read_problems
from shared.files import write_whole

ABOUT = {
    "mbpp_test": "MBPP, test split (task ids 11 to 510), google-research-datasets/mbpp,"
    " CC-BY-4.0",
    "humaneval": "HumanEval, openai/openai_humaneval, MIT",
}
PACKAGED = Path(contamination.__file__).with_name(FINGERPRINTS)


def build(sources: Mapping[str, str], file: Path) -> dict[str, Any]:
    """Writes the fingerprints of benchmarks to a file; a whole file or none.

    Args:
      sources: benchmark (a key of `ABOUT`) -> its test problems, a file or folder as in
        `data.check_against`.
      file: what is written.

    Returns:
      Per benchmark what it is, and its numbers of problems and fingerprints.

    Raises:
      ValueError: if a benchmark is not known, or its problems cannot be read.
    """
    if unknown := sorted(sources.keys() - ABOUT.keys()):
        raise ValueError(f"benchmarks must be among {', '.join(ABOUT)}, got {unknown}")
    arrays: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    for benchmark, source in sorted(sources.items()):
        examples = read_problems(source)
        prints = prints_of(examples)
        about[benchmark] = {"source": ABOUT[benchmark], "problems": len(examples)}
        for kind in KINDS:
            about[benchmark][kind] = len(prints[kind])
            arrays[f"{benchmark}.{kind}"] = np.array(sorted(prints[kind]), "<u8")
    packed = {
        name: base64.b64encode(x.tobytes()).decode() for name, x in arrays.items()
    }
    text = json.dumps({"about": about, "fingerprints": packed}, indent=1)
    try:
        write_whole(file, f"{text}\n".encode())
    except OSError as error:
        raise ValueError(f"{file} must be writable, got {error.strerror}") from None
    return about


def main(argv: Sequence[str]) -> int:
    """Builds the fingerprints that travel with the package."""
    parser = argparse.ArgumentParser(
        prog="python tests/script/build_fingerprints.py", description=main.__doc__
    )
    parser.add_argument("sources", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--to", type=Path, default=PACKAGED)
    arguments = parser.parse_args(argv)
    sources = dict(entry.partition("=")[::2] for entry in arguments.sources)
    try:
        about = build(sources, arguments.to)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(about, indent=2))
    print(f"{arguments.to}: {arguments.to.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
