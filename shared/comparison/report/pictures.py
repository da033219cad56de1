"""Which plots the report has, each with the words for those who do not see it."""

from collections.abc import Sequence

from shared.algorithms import PLAIN
from shared.comparison.grid.arms import NTP, Arm
from shared.comparison.grid.found import Found
from shared.comparison.report import plots
from shared.comparison.report.colours import Style
from shared.comparison.report.curves import AXES, curve
from shared.comparison.report.drawing import Plot
from shared.comparison.report.plots import Bar, Count
from shared.comparison.report.records import Record
from shared.comparison.report.tables import capital, select, slug
from shared.comparison.scores import Measure
from shared.run.validation import VALIDATION_NLL

Styles = dict[str, Style]
GOALS = {NTP: "plain next-token training (ntp)", PLAIN: "baseline"}
OF_WEIGHTS = {
    "weight_ess": ("Effective share of targets", "share"),
    "weight_entropy": ("Entropy of the weights", "nats"),
    "weight_max": ("Highest weight of a step", "weight"),
    "weight_min": ("Lowest weight of a step", "weight"),
    "weight_mean": ("Mean weight of a step", "weight"),
    "kept_fraction": ("Share of targets with a weight above 0", "share"),
}


def difference_plots(
    found: Found, records: Sequence[Record], measure: Measure, styles: Styles
) -> list[Plot]:
    """Intervals of the differences to ntp and to baseline, where these are compared."""
    drawn = []
    for goal, words in GOALS.items():
        own = _differences(records, measure, goal)
        bars = []
        for arm in found.plan.arms:
            for x in select(own, first=arm.name):
                scale = 100 if measure.share else 1
                bounds = (x.get(name) for name in ("value", "low", "high"))
                bars.append(
                    Bar(arm, *(None if b is None else scale * b for b in bounds))
                )
        if bars:
            drawn.append(
                plots.intervals(
                    f"difference-{goal}-{slug(measure)}",
                    f"{capital(measure.name)}: difference to {words}",
                    _told(
                        "Difference", [(x.arm, x.value, x.low, x.high) for x in bars]
                    ),
                    bars,
                    styles,
                    good=measure.good,
                    label="points" if measure.share else measure.words,
                )
            )
    return drawn


def _differences(
    records: Sequence[Record], measure: Measure, second: str
) -> list[Record]:
    """What was found of every arm against that one."""
    of = {"task": measure.task, "metric": measure.metric, "second": second}
    return select(records, kind="difference", **of)


def score_plot(
    found: Found, records: Sequence[Record], measure: Measure, styles: Styles
) -> Plot:
    """The interval of every arm's score."""
    own = select(records, kind="score", task=measure.task, metric=measure.metric)
    scale, bars = 100 if measure.share else 1, []
    for arm in found.plan.arms:
        held = select(own, arm=arm.name)
        bounds = [scale * held[0][x] for x in ("value", "low", "high")] if held else []
        bars.append(Bar(arm, *bounds))
    return plots.intervals(
        f"score-{slug(measure)}",
        capital(measure.name),
        _told("Score", [(x.arm, x.value, x.low, x.high) for x in bars]),
        bars,
        styles,
        good=measure.good,
        label="%" if measure.share else measure.words,
        zero=False,
    )


def win_plots(found: Found, records: Sequence[Record], measure: Measure) -> list[Plot]:
    """Problems won, tied and lost against ntp and baseline."""
    drawn = []
    for goal, words in GOALS.items():
        own = _differences(records, measure, goal)
        counts = [
            Count(arm, x.get("win"), x.get("tie"), x.get("loss"))
            for arm in found.plan.arms
            for x in select(own, first=arm.name)
        ]
        if counts:
            told = [
                f"{x.arm.name} {x.win}, {x.tie} and {x.loss}"
                for x in counts
                if x.win is not None
            ]
            drawn.append(
                plots.wins(
                    f"wins-{goal}-{slug(measure)}",
                    f"{capital(measure.name)}: problems won (blue), tied (grey) "
                    f"and lost (orange) against {words}",
                    f"Problems won, tied and lost: {'; '.join(told) or 'none'}.",
                    counts,
                )
            )
    return drawn


def learning_plots(found: Found, styles: Styles) -> list[Plot]:
    """Validation nll over steps, tokens and seconds."""
    return [
        plot
        for axis in AXES
        if (
            plot := _curves(
                found,
                styles,
                VALIDATION_NLL,
                axis,
                f"learning-{axis}",
                f"Validation nll over {axis}",
                "validation nll, nats",
            )
        )
    ]


def weight_plots(found: Found, styles: Styles) -> list[Plot]:
    """What the weights are like over training."""
    return [
        plot
        for metric, (title, label) in OF_WEIGHTS.items()
        if (
            plot := _curves(
                found,
                styles,
                metric,
                "steps",
                f"{metric.replace('_', '-')}",
                title,
                label,
            )
        )
    ]


def _curves(
    found: Found,
    styles: Styles,
    metric: str,
    axis: str,
    name: str,
    title: str,
    label: str,
) -> Plot | None:
    drawn = [x for arm in found.plan.arms if (x := curve(found, arm.name, metric))]
    if not drawn:
        return None
    told = "; ".join(
        f"{x.arm} from {x.mean_P[0]:.3g} to {x.mean_P[-1]:.3g}" for x in drawn
    )
    arms = {arm.name: arm for arm in found.plan.arms}
    alt = f"{title}: {told}."
    return plots.curves(name, title, alt, drawn, arms, styles, axis=axis, label=label)


def _told(
    what: str,
    rows: Sequence[tuple[Arm, float | None, float | None, float | None]],
) -> str:
    """A plot of intervals in words."""
    parts = [
        f"{arm.name} {value:.3g} [{low:.3g}, {high:.3g}]"
        if value is not None and low is not None and high is not None
        else f"{arm.name} not compared"
        for arm, value, low, high in rows
    ]
    return f"{what} with its 95 % interval: {'; '.join(parts)}."
