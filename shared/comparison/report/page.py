"""What the report says, section by section: the same for HTML and Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.comparison import answers
from shared.comparison.answers import Answer
from shared.comparison.cautions import cautions
from shared.comparison.differences import Comparison
from shared.comparison.grid.found import Found
from shared.comparison.report import method, pictures, run_tables, tables
from shared.comparison.report.colours import Style, styles
from shared.comparison.report.drawing import Plot
from shared.comparison.report.records import Record
from shared.comparison.report.tables import Table
from shared.comparison.scores import measures_of


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report below its first screen.

    Attributes:
      legend: whether its plots need one.
      commands: of runs, by their names.
    """

    name: str
    title: str
    text: str = ""
    answers: tuple[Answer, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    legend: bool = False
    commands: tuple[tuple[str, str], ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole report.

    Attributes:
      legend: name, style and whether it is a control, of each arm.
    """

    title: str
    question: str
    setting: str
    headlines: tuple[str, ...]
    answers: tuple[Answer, ...]
    plots: tuple[Plot, ...]
    cautions: tuple[str, ...]
    legend: tuple[tuple[str, Style], ...]
    sections: tuple[Section, ...]

    @property
    def all_plots(self) -> list[Plot]:
        """Those of the first screen and of every section."""
        return [*self.plots, *(plot for x in self.sections for plot in x.plots)]


def page_of(
    found: Found, comparisons: Sequence[Comparison], records: Sequence[Record]
) -> Page:
    """The report of a comparison, with its plots drawn."""
    measures, looks = measures_of(found), styles(found.plan.arms)
    first = [
        plot
        for measure in measures
        if measure.primary
        for plot in pictures.difference_plots(found, records, measure, looks)
    ]
    return Page(
        title=f"{answers.QUESTION} {found.plan.model} on {found.plan.data}",
        question=answers.QUESTION,
        setting=answers.setting(found),
        headlines=tuple(answers.headlines(found, comparisons)),
        answers=tuple(answers.answers(found, comparisons)),
        plots=tuple(first),
        cautions=tuple(cautions(found, comparisons)),
        legend=tuple((arm.name, looks[arm.name]) for arm in found.plan.arms),
        sections=(
            _scores(found, records, looks),
            _differences(found, comparisons, records, looks),
            _learning(found, looks),
            _costs(records),
            _weights(found, records, looks),
            Section(
                name="of-heads",
                title="Prediction heads",
                tables=(run_tables.heads_table(found, records),),
            ),
            _method(found, records),
        ),
    )


def _scores(
    found: Found, records: Sequence[Record], looks: dict[str, Style]
) -> Section:
    measures = measures_of(found)
    return Section(
        name="scores",
        title="Scores",
        text="Every arm and every control, with what it scores in each measure.",
        plots=tuple(pictures.score_plot(found, records, x, looks) for x in measures),
        tables=tuple(tables.score_table(found, records, x) for x in measures),
    )


def _differences(
    found: Found,
    comparisons: Sequence[Comparison],
    records: Sequence[Record],
    looks: dict[str, Style],
) -> Section:
    measures = measures_of(found)
    drawn = []
    for measure in measures:
        if measure.primary:  # their differences are on the first screen
            drawn += pictures.win_plots(found, records, measure)
        else:
            drawn += pictures.difference_plots(found, records, measure, looks)
    return Section(
        name="differences",
        title="Paired differences",
        text="To plain next-token training, to baseline, and of each algorithm to its "
        "own controls. The secondary measures are a family of their own, and decide "
        "nothing; what they say in words is folded in.",
        answers=tuple(answers.answers(found, comparisons, primary=False)),
        plots=tuple(drawn),
        tables=tuple(tables.difference_table(records, x) for x in measures),
    )


def _learning(found: Found, looks: dict[str, Style]) -> Section:
    return Section(
        name="learning",
        title="Learning curves",
        text="Validation nll of head 0, the mean over seeds; bands reach from the "
        "lowest seed to the highest. Tokens and seconds begin with what comes before "
        "the first step, as planned; seconds leave out evaluations. Dashed lines are "
        "controls with shuffled scores, dotted ones with random scores.",
        legend=True,
        plots=tuple(pictures.learning_plots(found, looks)),
    )


def _costs(records: Sequence[Record]) -> Section:
    return Section(
        name="cost",
        title="Costs",
        tables=(run_tables.cost_table(records), run_tables.original_table(records)),
    )


def _weights(
    found: Found, records: Sequence[Record], looks: dict[str, Style]
) -> Section:
    return Section(
        name="of-weights",
        title="Weights over training",
        legend=True,
        plots=tuple(pictures.weight_plots(found, looks)),
        tables=(run_tables.weights_table(records),),
    )


def _method(found: Found, records: Sequence[Record]) -> Section:
    return Section(
        name="method",
        title="Method",
        text=method.STATISTICS,
        tables=(
            method.method_table(found),
            method.arms_table(found),
            method.tasks_table(found),
            run_tables.runs_table(records),
        ),
        commands=tuple(method.commands(found)),
    )
