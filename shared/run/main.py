"""What the command lines of both trainers do around their work: exit codes and errors.

with exit_code(arguments) as outcome:
    ...
return outcome.code
"""

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.messages import one_line, os_error_line
from shared.run.command_line import Invocation, parse
from shared.run.peers import Stalled
from shared.run.stops import at_once, code_of
from shared.tracking import console

# The name that was given is at fault, not the system: too long, or links in a ring.
NAMES = {errno.ENAMETOOLONG, errno.ELOOP}


@dataclass
class Outcome:
    """How a command ended, and the line that says why.

    0, 1 for a failure, 2 for bad input, 128 + n by signal n, 75 (`peers.STALLED`) for a
    peer that is gone: the same command goes on then.
    """

    code: int = 0
    line: str = ""


@contextmanager
def exit_code(arguments: list[str]) -> Iterator[Outcome]:
    """Turns what is raised within into one line for the user and an exit code."""
    verbose = "--verbose" in arguments
    outcome = Outcome()
    console.setup_logging(None, verbose)  # until there is a run folder
    try:
        with at_once():  # but where it is better to save first
            yield outcome
    except BrokenPipeError:  # of what prints by itself: `--help | head -1`
        pass
    except (ValueError, FloatingPointError, MemoryError, OSError) as error:
        if verbose:
            traceback.print_exc()
        failed = isinstance(error, (OSError, FloatingPointError, MemoryError))
        if isinstance(error, OSError) and error.errno in NAMES:
            failed = False
        line = os_error_line(error) if isinstance(error, OSError) else str(error)
        line = one_line(line)
        console.say(f"error: {line}", sys.stderr)
        outcome.code, outcome.line = 1 if failed else 2, line
    except KeyboardInterrupt as error:
        console.say("stopped", sys.stderr)
        outcome.code, outcome.line = code_of(error), "stopped"
    except Stalled as error:
        console.say(f"error: {error}", sys.stderr)
        outcome.code, outcome.line = error.code, str(error)
    finally:
        console.close_logging()
        console.flush()


def asked_of(arguments: list[str], backend: str) -> Invocation:
    """What a trainer's command line asks for; says which names mean nothing here."""
    asked = parse(arguments, prog=f"python -m {backend}.train")
    if asked.unused:
        console.say(f"note: nothing here reads {', '.join(asked.unused)}", sys.stderr)
    return asked


def home_path(text: str) -> Path:
    """A path whose `~` is the user's home, where no shell has said so."""
    return Path(os.path.expanduser(text))


def check_least(asked: argparse.Namespace, least: dict[str, int]) -> None:
    """Raises: ValueError, if an option is below its least value."""
    for name, number in least.items():
        if (got := getattr(asked, name)) < number:
            raise ValueError(f"--{name} must be >= {number}, got {got}")


def export_arguments(prog: str, doc: str, argv: list[str] | None) -> argparse.Namespace:
    """`run`, `to`, `model_only` and `made_for` of the command `export`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {prog}", description=doc.splitlines()[0]
    )
    parser.add_argument("run", help="run folder, or RUN/checkpoints/STEP")
    parser.add_argument(
        "--to", type=home_path, required=True, help="folder to write; must be new"
    )
    parser.add_argument(
        "--model-only",
        action="store_true",
        help="leave out what a trainer needs to go on (two thirds of the size)",
    )
    parser.add_argument(
        "--for",
        dest="made_for",
        choices=("transformers", "vllm"),
        default="transformers",
        help="vllm: the heads alone, for its Medusa proposer",
    )
    return parser.parse_args(argv)
