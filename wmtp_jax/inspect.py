"""What each token weighs: one example or text, on the terminal and as a page.

    python -m wmtp_jax.inspect --model RUN
    python -m wmtp_jax.inspect --model RUN --example train:7 --step 200
    python -m wmtp_jax.inspect --model RUN --text FILE --beside RUN2

The weights are those that a training step of the run would give the tokens, under the
model of one of its checkpoints. The page is written into RUN/inspected.
"""

import os
import sys
from typing import Any

if __name__ == "inspect":
    # A file of this folder is run by its path, which puts the folder before all others:
    # whoever asks for `inspect` wants the standard library's.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    del sys.modules["inspect"]
    import inspect  # noqa: F401


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 for bad input."""
    from shared.inspection.asked import parser_of
    from shared.run.main import exit_code
    from wmtp_jax import NAME

    with exit_code([]) as outcome:
        asked = parser_of(NAME, __doc__ or "").parse_args(argv)
        from wmtp_jax.sharding import jax_told

        with jax_told():
            run(asked)
    return outcome.code


def run(asked: Any) -> None:
    """Finds the example, weighs it with each run's model, shows it."""
    from shared.inspection import asked as command
    from wmtp_jax import NAME
    from wmtp_jax.inspecting import answer, weigh

    subjects = command.read_subjects(asked, NAME, answer)
    command.tell(asked, subjects, [weigh(subject) for subject in subjects])


if __name__ == "__main__":
    sys.exit(main())
