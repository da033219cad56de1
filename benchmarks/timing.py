"""One way to time: variants take turns in one process, ratios are made pair by pair.

Times on shared machines drift by tens of percent within minutes. So variants run A B A
B, each waits for its device, and a ratio is the median over neighbours in time.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from shared.run.freed_memory import keep_freed_memory

Times = dict[str, list[float]]


def take_turns(
    variants: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 1,
    counted: dict[str, list[Any]] | None = None,
) -> Times:
    """Seconds of every call, by variant.

    Args:
      variants: each does one step and returns when it is computed.
      warmup: rounds before, not counted: they compile.
      counted: is filled with what each call returned, a number of tokens, say.
    """
    times: Times = {name: [] for name in variants}
    for number in range(-warmup, rounds):
        if number == 0:
            keep_freed_memory()
        for name, run in variants.items():
            _show(f"{name}: round {number + 1}/{rounds}")
            started = time.perf_counter()
            result = run()
            if number >= 0:
                times[name].append(time.perf_counter() - started)
                if counted is not None:
                    counted.setdefault(name, []).append(result)
    _show("")
    return times


def _show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def ratio(times: Times, name: str, over: str) -> float:
    """Median of the ratios of neighbours."""
    pairs = zip(times[name], times[over], strict=True)
    return statistics.median(a / b for a, b in pairs)


def rates(times: Times, counted: Times) -> Times:
    """Tokens a second of every call, by variant."""
    return {
        name: [n / s for n, s in zip(counted[name], seconds, strict=True)]
        for name, seconds in times.items()
    }


def spread(seconds: list[float]) -> dict[str, float]:
    """Columns of a table: median, smallest and largest."""
    return {
        "s": round(statistics.median(seconds), 3),
        "min": round(min(seconds), 3),
        "max": round(max(seconds), 3),
    }
