"""Short runs of each algorithm, for a budget of seconds: what a step takes here.

Each has an output folder of its own, without what other runs have cached, so that the
time before its first step is all that the algorithm needs: its reference, the passes
over the data, the value head's first stage.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from shared.comparison.grid.arms import Arm
from shared.comparison.grid.asked import Asked
from shared.comparison.grid.plan import Arms, Measured, digest
from shared.comparison.grid.running import Job, run_job
from shared.config.layers import flatten
from shared.files import write_json
from shared.huggingface.json_keys import read_keys
from shared.json_text import read_object
from shared.tracking import console
from shared.tracking.tracking import read_metrics

STEPS = 8
LEFT_OUT = 2  # steps at the start, which compile


def measure(
    arms: Sequence[Arm], known: Arms, asked: Asked, backend: str, deadline: float
) -> Measured:
    """`(seconds of a step, seconds before the first)` of each trained arm.

    A control computes what its algorithm does, and has its time.

    Raises:
      ValueError: if a short run fails.
    """
    found: dict[str, tuple[float, float]] = {}
    for arm in arms:
        if arm.kind == "trained" and not arm.of:
            found[arm.name] = _of_arm(arm, known, asked, backend, deadline)
    for arm in arms:
        if arm.kind == "trained" and arm.of:
            found[arm.name] = found[arm.of]
    return found


def _of_arm(
    arm: Arm, known: Arms, asked: Asked, backend: str, deadline: float
) -> tuple[float, float]:
    cfg = known.configs[arm.name]
    train = replace(cfg.train, max_steps=0, epochs=1)
    told = flatten(replace(cfg, train=train, output_dir="", run_name=""))
    name = f"{arm.name}-{digest([told, known.inputs[arm.name].digests])}"
    folder = asked.folder / "pilot" / name
    file = folder.with_suffix(".json")
    if file.is_file():
        held = read_keys(file)
        return held.number("step"), held.number("before")
    console.say(f"{arm.name}: {STEPS} steps, to know what one takes")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own: tuple[str, ...] = (
        "--train.max-steps",
        str(STEPS),
        "--train.epochs",
        str(STEPS),
    )
    own += ("--train.no-export", "--run-name", "pilot", "--tracking", "jsonl")
    own += ("--output-dir", str(folder.absolute()))
    job = Job("train", (f"{backend}.train", *asked.training, *arm.options, *own))
    log = folder.with_suffix(".log")
    if run_job(job, log, deadline):
        raise ValueError(f"a short run of {arm.name} has failed: see {log}")
    rows = read_metrics(folder / "pilot" / "metrics.jsonl")
    seconds = [float(row["seconds"]) for row in rows if "seconds" in row]
    summary = read_object(folder / "pilot" / "summary.json")
    step = median(seconds[LEFT_OUT:] or seconds)
    before = float(summary["seconds_before_steps"])
    write_json(file, {"step": step, "before": before})
    shutil.rmtree(folder, ignore_errors=True)
    return step, before
