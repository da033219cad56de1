"""Steps that take a moment each, a checkpoint after each of them, and a summary."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(argv):
    given = dict(zip(argv[::2], argv[1::2], strict=True))
    if "--resume" in given:
        run = Path(given["--resume"])
        config = json.loads((run / "config.yaml").read_text())
    else:
        run = Path(given["--output-dir"]) / given["--run-name"]
        config = {"steps": int(given["--steps"]), "fails": given.get("--fails", "")}
        (run / "checkpoints" / "0").mkdir(parents=True)
        (run / "config.yaml").write_text(json.dumps(config))
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    done = max(int(x.name) for x in (run / "checkpoints").iterdir())
    with open(run.parent / "started.txt", "a") as file:
        file.write(f"{run.name} {done}\n")
    if config["fails"]:
        sys.exit(f"error: {config['fails']}")
    while done < config["steps"] and not told:
        time.sleep(float(os.environ.get("FAKE_STEP", "0")))
        done += 1
        (run / "checkpoints" / str(done)).mkdir()
    if done < config["steps"]:
        sys.exit(130)
    (run / "summary.json").write_text(json.dumps({"steps": done}))


if __name__ == "__main__":
    main(sys.argv[1:])
