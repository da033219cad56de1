"""How long a comparison still takes and how much disk, before and while it runs.

Seconds of a run are those that runs of the same arm have taken here, else come from
FLOPs and a rate: that of runs of other arms, or of a matrix product timed now. They are
estimates, and said to be.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.comparison.grid.found import Member, Plan
from shared.comparison.grid.plan import Arms
from shared.json_text import parse
from shared.run.memory import count_parameters, estimate

OF_A_PRODUCT = 0.4  # of the rate of one large product, that training may reach
STARTING = 30.0  # seconds of a process before its first step, compilation among them
EVALUATING = 60.0  # seconds of an evaluation that nothing is known of


@dataclass(frozen=True)
class Rates:
    """What is known of the time that runs take.

    Attributes:
      took: seconds by (arm, what) of the processes that have ended.
      flops_per_s: of training.
    """

    took: Mapping[tuple[str, str], float]
    flops_per_s: float


def known_rates(folder: Path, plan: Plan) -> Rates:
    """What the runs of a folder tell; without any, what a product does."""
    found: dict[tuple[str, str], list[float]] = {}
    for arm, what, seconds in _lines(folder / "took.jsonl"):
        found.setdefault((arm, what), []).append(seconds)
    took = {key: float(np.median(x)) for key, x in found.items()}
    rates = [
        training_flops(plan, arm) / max(1.0, seconds - STARTING)
        for (arm, what), seconds in took.items()
        if what == "train" and arm in plan.shares
    ]
    rate = float(np.median(rates)) if rates else OF_A_PRODUCT * product_rate()
    return Rates(took, rate)


def _lines(file: Path) -> Iterator[tuple[str, str, float]]:
    """Arm, what was done, seconds; half a line of a killed grid is passed over."""
    if not file.is_file():
        return
    for line in file.read_bytes().splitlines():
        try:
            held = parse(line)
            yield str(held["arm"]), str(held["what"]), float(held["seconds"])
        except (ValueError, KeyError, TypeError, OverflowError):
            continue


def product_rate(width: int = 1024) -> float:
    """FLOPs a second of a float32 product of two square matrices on the processor."""
    a = np.ones((width, width), np.float32)
    a @ a  # the first one loads what it needs
    began = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2.0 * width**3 / (time.perf_counter() - began)


def training_flops(plan: Plan, arm: str) -> float:
    """Of a run of an arm, what comes before its steps among them."""
    share = plan.shares[arm]
    return share.steps * share.step.flops + share.before.flops


def seconds_of(plan: Plan, member: Member, what: str, rates: Rates) -> float:
    """About how long one process takes."""
    if (member.arm, what) in rates.took:
        return rates.took[member.arm, what]
    if what == "train":
        if member.arm not in plan.shares:
            return STARTING
        return STARTING + training_flops(plan, member.arm) / rates.flops_per_s
    others = [x for (_, of), x in rates.took.items() if of == what]
    return float(np.median(others)) if others else EVALUATING


def disk_of(known: Arms, plan: Plan, keep: str, left: Sequence[Member]) -> int:
    """Bytes that the runs which are left take at most, one under way at a time."""
    largest, kept = 0, 0
    for member in left:
        cfg = known.configs.get(member.arm)
        if cfg is None:
            continue
        model = 4 * sum(count_parameters(cfg).values())
        of = estimate(cfg, plan.backend)
        state = of["parameters"] + of["moments"]
        # The newest checkpoints, and the one that is being written beside them.
        run = model + state * (cfg.train.keep_checkpoints + 1)
        largest = max(largest, run)
        kept += {"models": model, "results": 0, "all": run}[keep]
    return largest + kept
