"""The first file of a sandboxed child, run as a file by `python -s -S -P`.

Short, since it is compiled at every start.
"""

import os
import sys

sys.path.append(os.path.abspath(__file__).rsplit("/shared/", 1)[0])

from shared.evaluation.walls.inside.start import main

if __name__ == "__main__":
    main()
