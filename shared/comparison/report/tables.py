"""The tables of the report, from the lines of `results.jsonl`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.comparison import formats
from shared.comparison.formats import NONE, chance, number
from shared.comparison.grid.found import Found
from shared.comparison.report.records import Record
from shared.comparison.scores import Measure, why_unscored


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts; the first cell of a row is what it is about.

    Attributes:
      name: that links point to.
      texts: how many columns, from the left, hold words and no numbers.
      note: below it.
    """

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1
    note: str = ""


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records with these values."""
    return [x for x in records if all(x.get(k) == v for k, v in wanted.items())]


def score_table(found: Found, records: Sequence[Record], measure: Measure) -> Table:
    """Every arm in one measure, those without results too."""
    own = select(records, kind="score", task=measure.task, metric=measure.metric)
    rows = []
    for arm in found.plan.arms:
        held = select(own, arm=arm.name)
        if not held:
            why = why_unscored(found, arm.name, measure)
            rows.append((arm.name, NONE, why, "0", NONE, NONE))
            continue
        of, each = held[0], held if len(held) == 1 else held[1:]
        shown = formats.interval(
            of["value"], of["low"], of["high"], share=measure.share
        )
        value, _, bounds = shown.partition(" ")
        digits = 1 if measure.share else formats.decimals(of["low"], of["high"])
        scale = 100 if measure.share else 1
        seeds = ", ".join(number(scale * x["value"], digits) for x in each)
        problems = str(of["problems"])
        rows.append((arm.name, value, bounds, str(len(each)), problems, seeds))
    better = "higher" if measure.good > 0 else "lower"
    unit = ", %" if measure.share else ""
    return Table(
        name=f"scores-{slug(measure)}",
        caption=f"{capital(measure.name)}{unit} ({better} is better)",
        columns=("arm", "mean", "95 % interval", "seeds", "problems", "of each seed"),
        rows=tuple(rows),
    )


def difference_table(records: Sequence[Record], measure: Measure) -> Table:
    """Every pair in one measure."""
    own = select(records, kind="difference", task=measure.task, metric=measure.metric)
    unit = "points" if measure.share else "bits per byte"
    sign = "above" if measure.good > 0 else "below"
    return Table(
        name=f"differences-{slug(measure)}",
        caption=f"Paired differences, first - second, in {measure.name} ({unit}; "
        f"{sign} 0 the first is better)",
        columns=(
            "first",
            "second",
            "verdict",
            "difference",
            "95 % interval",
            "p (Holm)",
            "p",
            "win / tie / loss",
            "P(better)",
            "smallest seen",
            "seeds",
            "problems",
            *TESTS.values(),
        ),
        rows=tuple(_difference_row(x, measure) for x in own),
        texts=3,
        note=(
            "Smallest seen: the effect that 8 of 10 such comparisons would show. "
            "Wins are problems that the first does better, by the mean over seeds. "
            f"Wilcoxon and McNemar are not adjusted. {_reasons(own)}"
        ).strip(),
    )


TESTS = {
    "wilcoxon": "Wilcoxon, problems",
    "over_seeds": "Wilcoxon, seeds",
    "mcnemar": "McNemar",
}


def _reasons(own: Sequence[Record]) -> str:
    """Why a test was not made, wherever one was not."""
    told = []
    for name, title in TESTS.items():
        whys = dict.fromkeys(x[f"why_no_{name}"] for x in own if not x["why"])
        whys.pop("", None)
        if whys:
            told.append(f"{title}, where not: {'; '.join(whys)}.")
    return " ".join(told)


def _difference_row(x: Record, measure: Measure) -> tuple[str, ...]:
    names = (x["first"], x["second"], x["verdict"])
    if x["why"]:
        return (*names, NONE, x["why"], *[NONE] * 10)
    shown = formats.interval(x["value"], x["low"], x["high"], share=measure.share)
    value, _, bounds = shown.partition(" ")
    small = NONE
    if x["smallest"] is not None:
        small = formats.size(x["smallest"], x["low"], x["high"], share=measure.share)
    return (
        *names,
        value,
        bounds,
        chance(x["p_holm"]),
        chance(x["p"]),
        f"{x['win']} / {x['tie']} / {x['loss']}",
        _better(x),
        small.removesuffix(" points").removesuffix(" bits per byte"),
        str(len(x["seeds"])),
        str(x["problems"]),
        *(chance(x[name]) for name in TESTS),
    )


def _better(x: Record) -> str:
    low, high = number(x["better_low"], 2), number(x["better_high"], 2)
    return f"{number(x['better'], 2)} [{low}, {high}]"


def slug(measure: Measure) -> str:
    """What names of files and links have of a measure; tasks come from a user."""
    text = f"{measure.task}-{measure.metric}"
    return "".join(x if x.isascii() and x.isalnum() else "-" for x in text)


def capital(text: str) -> str:
    """With its first letter large."""
    return text[:1].upper() + text[1:]


def whole(value: int | float | None) -> str:
    """Without decimals; `-` for none."""
    return NONE if value is None else f"{value:.0f}"
