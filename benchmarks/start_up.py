"""How long a command takes to answer, and a run to its first step.

    python -m benchmarks.start_up
    python -m benchmarks.start_up --modules wmtp_jax --repeats 5

Each command runs in fresh processes that take turns. `first step` is the default run of
an algorithm from the command to the row of step 1 in its `metrics.jsonl`; a run before,
not counted, leaves compiled programs, the reference's answers and the files in memory.
`imports` is the sum of `python -X importtime`, in a process of its own, until then.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.runs import options_parser, print_table

COMMANDS = ("--help", "--dry-run", "first step")
SELF = re.compile(r"import time:\s+(\d+) \|")


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--modules", nargs="+", default=["wmtp_jax", "wmtp_torch_mps"])
    parser.add_argument("--algo", default="critic")
    parser.add_argument("--repeats", type=int, default=3, help="of every command")
    asked, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(asked, rest, Path(folder))
    print_table(rows, asked.json)


def measure(asked: argparse.Namespace, rest: list[str], folder: Path) -> list[dict]:
    """A row for each module and command."""
    lines = {
        (m, c): _line(m, c, asked.algo, rest) for m in asked.modules for c in COMMANDS
    }
    seconds: dict[tuple[str, str], list[float]] = {line: [] for line in lines}
    for number in range(-1, asked.repeats):
        for name, line in lines.items():
            taken, _ = run(line, folder)
            if number >= 0:
                seconds[name].append(taken)
    return [
        {
            "trainer": module,
            "command": command,
            "s": round(statistics.median(taken), 2),
            "min": round(min(taken), 2),
            "max": round(max(taken), 2),
            "imports s": round(imports(lines[module, command], folder), 2),
        }
        for (module, command), taken in seconds.items()
    ]


def _line(module: str, command: str, algo: str, rest: list[str]) -> list[str]:
    options = [] if command == "first step" else [command]
    return ["-m", f"{module}.train", "--algo", algo, *options, *rest]


def run(line: list[str], folder: Path) -> tuple[float, str]:
    """Seconds to its end, or to the first step, which ends it; stderr until then."""
    records, told = set(folder.glob("*/metrics.jsonl")), folder / "stderr"
    with told.open("w") as errors:
        command = [sys.executable, *line, "--output-dir", str(folder)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        stepped = False
        while process.poll() is None and not stepped:
            time.sleep(0.01)
            new = set(folder.glob("*/metrics.jsonl")) - records
            stepped = any(map(_has_step, new))
        taken = time.perf_counter() - started
        said = told.read_text()
        if stepped:
            process.kill()
        if process.wait() and not stepped:
            raise SystemExit(said)
    return taken, said


def _has_step(metrics: Path) -> bool:
    """Whether the row of step 1 is there, after that of step 0."""
    return metrics.read_bytes().count(b"\n") > 1


def imports(line: list[str], folder: Path) -> float:
    """Seconds of all imports, each without those that it makes itself."""
    _, said = run(["-X", "importtime", *line], folder)
    return sum(map(int, SELF.findall(said))) / 1e6


if __name__ == "__main__":
    main()
