"""Spikes: a norm of the gradient far above those of the steps before it."""

import math
from statistics import median

from shared.state.checkpoints import Progressed

WINDOW = 64  # newest norms that the median is of
LEAST = 16  # of them, before one is judged
FACTOR = 10.0  # times the median; a spike is more


def total_norm(metrics: dict[str, float]) -> float | None:
    """The global norm of a step's gradient before clipping, if it is finite."""
    parts = (metrics.get("grad_norm_trunk"), metrics.get("grad_norm_heads"))
    if None in parts:
        return None
    return math.hypot(*(x for x in parts if x is not None))


def spike_over(norm: float, done: Progressed) -> float | None:
    """Takes one more norm; the median that it is a spike over, or None.

    A spike enters the window, too: it moves the median by one place.
    """
    before = done.grad_norms
    middle = median(before) if len(before) >= LEAST else math.inf
    done.grad_norms = [*before, norm][-WINDOW:]
    if not norm > FACTOR * middle:
        return None
    done.grad_spikes += 1
    return middle
