"""How the time of a step grows with rows, length, heads, and tokens that are skipped.

    python -m benchmarks.scaling --plot growth.png
    python -m benchmarks.scaling --axes heads --head-type block --batch 4 --length 256

Each axis changes one number and leaves the others; its points take turns. `of a line`
is how far a point lies from the straight line through all points of its axis (least
squares), over the line. The time of K heads over that of one head stands beside what
was published for training (arXiv 2404.19737, Table S5, 4 heads: 1.22 at 0.3B
parameters, 1.07 to 1.13 at 0.6B and more; heads of one block each that share the
unembedding).
"""

import argparse
import statistics
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import peers, workload
from benchmarks.runs import print_table
from benchmarks.timing import Times, ratio, take_turns
from shared.config.fields import Config

Axis = dict[float, peers.Step]
Row = dict[str, Any]


def main() -> None:
    parser = workload.parser(__doc__, batch=2, length=128, rounds=3)
    axes = tuple(POINTS)
    parser.add_argument("--axes", nargs="+", choices=axes, default=axes)
    parser.add_argument("--points", type=int, choices=(3, 4), default=3)
    parser.add_argument("--plot", help="also draw the points into this PNG")
    asked = parser.parse_args()
    if asked.data != "synthetic":
        parser.error("--data must be synthetic: rows that differ in one number only")
    table = []
    for axis in asked.axes:
        points = POINTS[axis](asked)
        made = {str(x): run for x, run in points.items()}
        times = take_turns(made, rounds=asked.rounds)
        table += rows_of_axis(axis, list(points), times)
    print(f"{workload.title(asked)}\n")
    print_table(table, asked.json)
    if asked.plot:
        draw(table, asked.plot, workload.title(asked))


def rows_of_axis(axis: str, points: list[float], times: Times) -> list[Row]:
    """A row of the table for each point."""
    medians = [statistics.median(times[str(x)]) for x in points]
    slope, start = np.polyfit(points, medians, 1)
    first = str(points[0])
    return [
        {
            "axis": axis,
            "value": x,
            "s": round(seconds, 3),
            "min": round(min(times[str(x)]), 3),
            "max": round(max(times[str(x)]), 3),
            "over the first": round(ratio(times, str(x), first), 3),
            "of a line": f"{seconds / (start + slope * x) - 1:+.1%}",
        }
        for x, seconds in zip(points, medians, strict=True)
    ]


def draw(table: list[Row], path: str, title: str) -> None:
    """Points of every axis with their smallest and largest time, and the line."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    axes = list(dict.fromkeys(row["axis"] for row in table))
    figure, plots = pyplot.subplots(
        1, len(axes), figsize=(3.6 * len(axes), 3.4), squeeze=False, sharey=True
    )
    for axis, plot in zip(axes, plots[0], strict=True):
        rows = [row for row in table if row["axis"] == axis]
        x, y = (np.array([row[key] for row in rows]) for key in ("value", "s"))
        low, high = (np.array([row[key] for row in rows]) for key in ("min", "max"))
        plot.errorbar(x, y, (y - low, high - y), fmt="o", capsize=3, label="median")
        slope, start = np.polyfit(x, y, 1)
        ends = np.array([0, x.max()])
        plot.plot(ends, start + slope * ends, "-", linewidth=1, label="line")
        plot.set_xlabel(NAMES[axis])
        plot.set_ylim(0, 1.05 * max(row["max"] for row in table))
        plot.grid(alpha=0.3)
    plots[0][0].set_ylabel("seconds a step")
    plots[0][0].legend()
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _of_one_state(asked: argparse.Namespace, configs: dict[float, Config]) -> Axis:
    """Steps of one model over other rows, which hand the state on to each other."""
    held = [peers.start(workload.config(asked))]
    return {
        x: peers.ours(cfg, [workload.dense_batch(cfg)], held)
        for x, cfg in configs.items()
    }


def over_rows(asked: argparse.Namespace) -> Axis:
    """B, from what was asked for on, twice as much each time."""
    cfg = workload.config(asked)
    sizes = [asked.batch * n for n in _doubled(asked)]
    return _of_one_state(
        asked, {B: workload.with_rows(cfg, B, asked.length) for B in sizes}
    )


def over_length(asked: argparse.Namespace) -> Axis:
    """L, likewise."""
    cfg = workload.config(asked)
    lengths = [asked.length * n for n in _doubled(asked)]
    return _of_one_state(
        asked, {L: workload.with_rows(cfg, asked.batch, L) for L in lengths}
    )


def over_heads(asked: argparse.Namespace) -> Axis:
    """K, from 1 on: each its own model."""
    made: Axis = {}
    for K in _doubled(asked):
        cfg = workload.config(argparse.Namespace(**{**vars(asked), "heads": K}))
        made[K] = peers.ours(cfg, [workload.dense_batch(cfg)])
    return made


def over_skip(asked: argparse.Namespace) -> Axis:
    """The share of the tokens that `rho1-tokenskip` drops."""
    cfg = workload.config(asked, "rho1-tokenskip")
    return _of_one_state(
        asked,
        {
            share: replace(cfg, weighting=replace(cfg.weighting, skip_fraction=share))
            for share in (0.0, 0.3, 0.6, 0.9)[: asked.points]
        },
    )


def _doubled(asked: argparse.Namespace) -> tuple[int, ...]:
    return (1, 2, 4, 8)[: asked.points]


POINTS = {
    "rows": over_rows,
    "length": over_length,
    "heads": over_heads,
    "skip": over_skip,
}
NAMES = {
    "rows": "rows B",
    "length": "positions L",
    "heads": "heads K",
    "skip": "share of tokens skipped",
}


if __name__ == "__main__":
    main()
