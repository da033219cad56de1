"""The colour of every arm, the same in all plots, told apart by colour-blind eyes."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.comparison.grid.arms import Arm

# Okabe and Ito 2008 without black and yellow, which vanish on one of the two pages.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#8A8F98"
GOOD, BAD, NEITHER = PALETTE[0], PALETTE[1], "#B8BCC4"
# What a page puts its own colours in the place of; both show on white, too.
INK, FAINT = "#1b1c1f", "#dcdddf"


@dataclass(frozen=True)
class Style:
    """How an arm is drawn.

    Attributes:
      line: of a curve: `-`; of a control `--` (shuffle) or `:` (random).
      alpha: of what is drawn; controls are lighter.
    """

    colour: str
    line: str = "-"
    alpha: float = 1.0

    @property
    def border(self) -> str:
        """The same line in CSS."""
        return {"-": "solid", "--": "dashed"}.get(self.line, "dotted")


def styles(arms: Sequence[Arm]) -> dict[str, Style]:
    """The style of each arm: its own colour, a control that of its algorithm."""
    found: dict[str, Style] = {}
    for arm in arms:
        if arm.kind == "untouched":
            found[arm.name] = Style(GREY)
        elif not arm.of:
            taken = sum(1 for x in found.values() if x.line == "-") - (
                GREY in {x.colour for x in found.values()}
            )
            found[arm.name] = Style(PALETTE[taken % len(PALETTE)])
    for arm in arms:
        if arm.of:
            line = {"shuffle": "--"}.get(arm.control, ":")
            colour = found[arm.of].colour if arm.of in found else GREY
            found[arm.name] = Style(colour, line, 0.55)
    return found


def short(arm: Arm) -> str:
    """Its name beside a plot, where a control stands below its algorithm."""
    return f"+ {arm.control}" if arm.of else arm.name
