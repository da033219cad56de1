"""How the numbers of a comparison are written: one way, wherever they stand."""

import math

NONE = "-"


def decimals(low: float, high: float) -> int:
    """So many that the half width of an interval keeps two digits, 3 to 6."""
    half = (high - low) / 2
    if not 0 < half < math.inf:
        return 3
    return min(6, max(3, 1 - math.floor(math.log10(half))))


def number(value: float | None, digits: int = 3) -> str:
    """With so many decimals; `-` for none or what is not finite."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(value: float, low: float, high: float, *, share: bool) -> str:
    """`value [low, high]`; shares in points of a hundred."""
    if share:
        return f"{number(100 * value, 1)} {_bounds(100 * low, 100 * high, 1)}"
    digits = decimals(low, high)
    return f"{number(value, digits)} {_bounds(low, high, digits)}"


def _bounds(low: float, high: float, digits: int) -> str:
    ends = (number(x, digits) if math.isfinite(x) else "?" for x in (low, high))
    return f"[{', '.join(ends)}]"


def size(value: float, low: float, high: float, *, share: bool) -> str:
    """A difference without its sign, as `0.021 bits per byte` or `2.1 points`."""
    if share:  # two shares are no more than 100 points apart
        points = "> 100" if abs(value) > 1 else number(100 * abs(value), 1)
        return f"{points} points"
    return f"{number(abs(value), decimals(low, high))} bits per byte"


def chance(p: float | None) -> str:
    """A p value: three decimals, or that it is below the least of them."""
    if p is None or not math.isfinite(p):
        return NONE
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def large(value: float | None) -> str:
    """Three digits and a power of a thousand: `1.25 M`."""
    if value is None or not math.isfinite(value):
        return NONE
    power = 0
    units = ("", " k", " M", " G", " T", " P", " E")
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    text = f"{value:.3g}"
    return f"{text}{units[power]}"


def counted(number: int, one: str, many: str = "") -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
