"""One problem's bits, made of the model's name."""

import json
import sys
from pathlib import Path


def main(argv):
    folder, model = Path(argv[argv.index("--to") + 1]), argv[argv.index("--model") + 1]
    folder.mkdir(parents=True, exist_ok=True)
    line = {"task_id": "1", "bits": float(len(Path(model).name)), "bytes": 4}
    (folder / "mbpp.jsonl").write_text(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
