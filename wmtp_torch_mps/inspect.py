"""What each token weighs: one example or text, on the terminal and as a page.

    python -m wmtp_torch_mps.inspect --model RUN
    python -m wmtp_torch_mps.inspect --model RUN --example train:7 --step 200
    python -m wmtp_torch_mps.inspect --model RUN --text FILE --beside RUN2

The weights are those that a training step of the run would give the tokens, under the
model of one of its checkpoints. The page is written into RUN/inspected.
"""

import argparse
import sys

from shared.inspection import asked as command
from shared.run.main import exit_code
from wmtp_torch_mps import NAME


def run(asked: argparse.Namespace) -> None:
    """Finds the example, weighs it with each run's model, shows it."""
    from wmtp_torch_mps.inspecting import answer, weigh

    subjects = command.read_subjects(asked, NAME, answer)
    command.tell(asked, subjects, [weigh(subject) for subject in subjects])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}.inspect", description=(__doc__ or "").splitlines()[0]
    )
    command.add_options(parser.add_argument)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    with exit_code([]) as outcome:
        asked = _parser().parse_args(argv)
        from wmtp_torch_mps.device import memory_told

        with memory_told():
            run(asked)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
