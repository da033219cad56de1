"""Short runs of either trainer from the command line, for the tests of both."""

import json

SMALL = (
    "--model smoke --tracking jsonl --critic.stage1-epochs 1 --reference.epochs 1 "
    "--train.eval-every 5 --train.save-every 5 --train.keep-checkpoints 9 --device cpu "
    "--train.epochs 9"
).split()


def run(backend, folder, name, steps, *options):
    """Trains, and returns the run folder; a later option wins."""
    arguments = [*SMALL, "--output-dir", str(folder), "--run-name", name]
    limit = ["--train.max-steps", str(steps)]
    assert backend.main([*arguments, *limit, *options]) == 0
    return folder / name


def go_on(backend, source, folder, name, steps):
    """A new run from an exported folder."""
    options = f"--resume {source} --output-dir {folder} --run-name {name} --device cpu"
    limit = ["--train.max-steps", str(steps)]
    assert backend.main([*options.split(), *limit]) == 0
    return folder / name


def rows(run_folder):
    """The rows of `metrics.jsonl` by step."""
    text = (run_folder / "metrics.jsonl").read_text()
    return {row["step"]: row for row in map(json.loads, text.splitlines())}
