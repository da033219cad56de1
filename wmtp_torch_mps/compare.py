"""Which token weighting helps: arms trained side by side, and a report that says so.

    python -m wmtp_torch_mps.compare
    python -m wmtp_torch_mps.compare --model FOLDER --data MBPP_FOLDER --seeds 6 \\
        --problems mbpp=MBPP_FOLDER --to RESULTS
    python -m wmtp_torch_mps.compare --algos ntp,critic --controls shuffle,random \\
        --budget flops --hours 3 --to RESULTS
    python -m wmtp_torch_mps.compare --to RESULTS --report-only

Every algorithm runs with each seed beside plain next-token training, the untouched
model and its own controls. Stopped, the same command goes on. All options that are not
compare's own are those of training.
"""

import sys

from shared.comparison import compare
from wmtp_torch_mps import NAME


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code, as of `compare.main`."""
    arguments = sys.argv[1:] if argv is None else argv
    return compare.main(arguments, NAME, __doc__ or "", ("torch",))


if __name__ == "__main__":
    sys.exit(main())
