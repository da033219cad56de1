"""One way to time: variants take turns in one process, ratios are made pair by pair.

Times on shared machines drift by tens of percent within minutes. So variants run A B A
B, each waits for its device, and a ratio is the median over neighbours in time.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping

Times = dict[str, list[float]]


def take_turns(
    variants: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> Times:
    """Seconds of every call, by variant.

    Args:
      variants: each does one step and returns when it is computed.
      warmup: rounds before, not counted: they compile.
    """
    times: Times = {name: [] for name in variants}
    for number in range(-warmup, rounds):
        for name, run in variants.items():
            print(f"\r{name}: round {number + 1}/{rounds} ", end="", file=sys.stderr)
            started = time.perf_counter()
            run()
            if number >= 0:
                times[name].append(time.perf_counter() - started)
    print(file=sys.stderr)
    return times


def ratio(times: Times, name: str, over: str) -> float:
    """Median of the ratios of neighbours."""
    pairs = zip(times[name], times[over], strict=True)
    return statistics.median(a / b for a, b in pairs)


def spread(seconds: list[float]) -> dict[str, float]:
    """Columns of a table: median, smallest and largest."""
    return {
        "s": round(statistics.median(seconds), 3),
        "min": round(min(seconds), 3),
        "max": round(max(seconds), 3),
    }
