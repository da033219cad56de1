"""The plots of a comparison: intervals, curves, wins and losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shared.comparison import formats
from shared.comparison.grid.arms import Arm
from shared.comparison.report.colours import (
    BAD,
    FAINT,
    GOOD,
    INK,
    NEITHER,
    Style,
    short,
)
from shared.comparison.report.curves import Curve
from shared.comparison.report.drawing import Plot, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 26  # pixels of an arm
POINTS = 150  # of a line


@dataclass(frozen=True)
class Bar:
    """One row of a plot of intervals.

    Attributes:
      value, low, high: None where there is nothing to draw.
    """

    arm: Arm
    value: float | None = None
    low: float | None = None
    high: float | None = None


def intervals(
    name: str,
    title: str,
    alt: str,
    bars: Sequence[Bar],
    styles: Mapping[str, Style],
    *,
    good: int,
    label: str,
    zero: bool = True,
) -> Plot:
    """One row an arm: a thick bar for the interval, a dark tick at the estimate.

    Args:
      good: the sign of what is better, told below the axis; 0 tells nothing.
      zero: whether there is a line at 0.
    """

    low, high = _range(bars, zero)

    def paint(axes: "Axes") -> None:
        axes.grid(axis="x", linewidth=1)
        if zero:
            axes.axvline(0, color=INK, linewidth=1)
        for row, bar in enumerate(bars):
            _paint_bar(axes, row, bar, styles[bar.arm.name], low, high)
        axes.set_yticks(range(len(bars)), [short(bar.arm) for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_xlim(low, high)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(label + _direction(good))

    return draw(name, title, alt, 60 + ROW * max(1, len(bars)), paint)


def _range(bars: Sequence[Bar], zero: bool) -> tuple[float, float]:
    """Limits of the axis: the intervals of all trained arms are within.

    The untouched model is often far from everything that was trained; it is drawn at
    the edge then, with its value.
    """
    trained = [bar for bar in bars if bar.arm.kind != "untouched"]
    shown = [bar for bar in trained if bar.value is not None] or bars
    ends = [
        bound
        for bar in shown
        for bound in (bar.value, bar.low, bar.high)
        if bound is not None and np.isfinite(bound)
    ] + [0.0] * zero
    if not ends or min(ends) == max(ends):
        return (ends or [0.0])[0] - 1, (ends or [0.0])[0] + 1
    margin = 0.06 * (max(ends) - min(ends))
    return min(ends) - margin, max(ends) + margin


def _paint_bar(
    axes: "Axes", row: int, bar: Bar, style: Style, least: float, most: float
) -> None:
    if bar.value is None or bar.low is None or bar.high is None:
        _absent(axes, row)
        return
    if not least <= bar.value <= most:
        right = bar.value > most
        axes.text(
            most if right else least,
            row,
            f"{bar.value:.3g} \u2192" if right else f"\u00a0\u2190 {bar.value:.3g}",
            ha="right" if right else "left",
            va="center",
            color=style.colour,
            weight="bold",
        )
        return
    low, high = max(bar.low, least), min(bar.high, most)
    axes.barh(row, high - low, 0.6, low, color=style.colour, alpha=style.alpha)
    axes.plot([bar.value] * 2, [row - 0.36, row + 0.36], color=INK, linewidth=2)


def _absent(axes: "Axes", row: int) -> None:
    """Says in a row that there is nothing to draw."""
    axes.text(
        0.5,
        row,
        "no results",
        transform=axes.get_yaxis_transform(),
        ha="center",
        va="center",
        style="italic",
        alpha=0.7,
    )


def _direction(good: int) -> str:
    if not good:
        return ""
    left, right = ("worse", "better") if good > 0 else ("better", "worse")
    gap = "\u00a0" * 6  # a page would make one space of several usual ones
    return f"\n\u2190 {left}{gap}{right} \u2192"


def curves(
    name: str,
    title: str,
    alt: str,
    drawn: Sequence[Curve],
    arms: Mapping[str, Arm],
    styles: Mapping[str, Style],
    *,
    axis: str,
    label: str,
) -> Plot:
    """A line an arm, named at its end, with a band from the lowest seed to the highest.

    Args:
      axis: of `Curve.x`.
      label: of the other axis.
    """

    def paint(axes: "Axes") -> None:
        axes.grid(axis="y", linewidth=1)
        for curve in drawn:
            style, shown = styles[curve.arm], _thinned(len(curve.mean_P))
            x = curve.x[axis][shown]
            if curve.seeds > 1:
                axes.fill_between(
                    x,
                    curve.low_P[shown],
                    curve.high_P[shown],
                    color=style.colour,
                    alpha=0.16 * style.alpha,
                    linewidth=0,
                )
            axes.plot(
                x,
                curve.mean_P[shown],
                style.line,
                color=style.colour,
                alpha=style.alpha,
                linewidth=2 if style.line == "-" else 1.5,
            )
        axes.set_xlabel(axis)
        axes.set_ylabel(label)
        axes.margins(x=0.02)
        axes.locator_params(nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: formats.large(value))
        _name_ends(axes, [x for x in drawn if not arms[x.arm].of], styles, axis)

    return draw(name, title, alt, 290, paint)


def _name_ends(
    axes: "Axes", drawn: Sequence[Curve], styles: Mapping[str, Style], axis: str
) -> None:
    """Names of lines at the right, as near to their ends as they fit."""
    low, high = axes.get_ylim()
    axes.set_xlim(axes.get_xlim())  # names and their lines do not widen it
    axes.set_ylim(low, high)
    least = 0.075 * (high - low)  # between two names
    places = [(float(x.mean_P[-1]), x) for x in drawn]
    places.sort(key=lambda place: place[0])
    if not places:
        return
    y = [place for place, _ in places]
    for i in range(1, len(y)):
        y[i] = max(y[i], y[i - 1] + least)
    over = max(0.0, (sum(y) - sum(place for place, _ in places)) / len(y))
    for at, (end, curve) in zip(y, places, strict=True):
        colour = styles[curve.arm].colour
        across = axes.get_yaxis_transform()
        axes.text(
            1.05,
            at - over,
            curve.arm,
            transform=across,
            va="center",
            color=colour,
            weight="bold",
        )
        # From the end of the line, which may end before the axis does, to its name.
        last = float(curve.x[axis][-1])
        edge = axes.get_xlim()[1]
        axes.plot([last, edge], [end, end], ":", color=colour, linewidth=0.8)
        axes.plot(
            [1.0, 1.04],
            [end, at - over],
            color=colour,
            linewidth=0.8,
            transform=across,
            clip_on=False,
        )


def _thinned(number: int) -> np.ndarray:
    """Which of so many points are drawn: no more than the plot has room for."""
    return np.unique(
        np.linspace(0, number - 1, min(number, POINTS)).round().astype(int)
    )


@dataclass(frozen=True)
class Count:
    """Problems that an arm wins, ties and loses against another; None if unknown."""

    arm: Arm
    win: int | None = None
    tie: int | None = None
    loss: int | None = None


def wins(name: str, title: str, alt: str, counts: Sequence[Count]) -> Plot:
    """One bar an arm: problems it does better, alike and worse than another."""

    def paint(axes: "Axes") -> None:
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        for row, count in enumerate(counts):
            if count.win is None or count.tie is None or count.loss is None:
                _absent(axes, row)
                continue
            parts = (count.win, count.tie, count.loss)
            start, whole = 0.0, max(1, sum(parts))
            for number, colour in zip(parts, (GOOD, NEITHER, BAD), strict=True):
                wide = number / whole
                axes.barh(
                    row, wide, 0.72, start, color=colour, edgecolor=FAINT, linewidth=0
                )
                if wide > 0.06:
                    ink = INK if colour == NEITHER else "white"
                    ink = "#1a1a1a" if colour == NEITHER else ink
                    axes.text(
                        start + wide / 2,
                        row,
                        str(number),
                        ha="center",
                        va="center",
                        color=ink,
                    )
                start += wide
        axes.set_yticks(range(len(counts)), [short(count.arm) for count in counts])
        axes.set_ylim(len(counts) - 0.4, -0.6)
        axes.set_xlim(0, 1)

    return draw(name, title, alt, 16 + ROW * max(1, len(counts)), paint)
