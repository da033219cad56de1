"""How much is drafted: as long as it pays, by what was measured.

A pass over T tokens of a row costs `cost(T)` seconds. A draft whose j-th token is kept
with probability a_j, if those before it are, gains

    E(J) = 1 + a_1 + a_1 a_2 + ... + a_1 ... a_J      tokens in one pass,

and J = 0, 3 or 7 drafted tokens are taken, whichever has the largest

    sum over rows of E(J) / cost(J + 1)

Costs are averages of what passes took; before any was measured, the cost model says

    cost(T) / cost(1) = 1 + MORE * (T - 1)

for a pass that reads all weights once, whatever T is: bytes decide, and MORE is what a
further token adds where arithmetic is not free. What the heads read besides (their own
matrices, and the unembedding or its rows that they score) is bytes too.
"""

from dataclasses import dataclass, field

SIZES = (1, 4, 8)  # tokens of a pass
MORE = 0.1
PRIOR = 0.5  # probability that a drafted token is kept, before any was seen
WEIGHT = 4.0  # of the prior, in tokens
FADE = 0.98  # of what was seen, with every new token
PROBE = 64  # passes without, after which drafts are tried once
LOOKS = 4  # passes of these in which the heads draft all the same, to be looked at
MARGIN = 1.08  # that drafting has to win by, since measured costs are noisy


@dataclass
class Rate:
    """How often a token was kept, the recent counting more."""

    kept: float = PRIOR * WEIGHT
    seen: float = WEIGHT

    def count(self, kept: bool) -> None:
        self.kept = FADE * self.kept + kept
        self.seen = FADE * self.seen + 1

    @property
    def value(self) -> float:
        return self.kept / self.seen


@dataclass
class Policy:
    """What was measured of one number of rows.

    Attributes:
      costs: seconds of a pass, by its tokens and whether the heads drafted in it.
      rates: by source (`heads`, or `ngram 3`) and place in the draft.
      quiet: looks since a draft was worth its pass.
    """

    costs: dict[tuple[int, bool], float] = field(default_factory=dict)
    rates: dict[tuple[str, int], Rate] = field(default_factory=dict)
    head_cost: float = 1.1  # a pass in which the heads draft, over one without
    quiet: int = 0
    _turns: int = 0

    def measured(self, size: int, heads: bool, seconds: float) -> None:
        """A pass took so long; a slow one among them counts little."""
        before = self.costs.get((size, heads))
        new = seconds if before is None else min(seconds, 2 * before)
        self.costs[size, heads] = new if before is None else 0.9 * before + 0.1 * new

    def cost(self, size: int, heads: bool = False) -> float:
        """Seconds of a pass, measured or by the cost model."""
        if (found := self.costs.get((size, heads))) is not None:
            return found
        if heads:
            return self.cost(size) * self.head_cost
        return self._one() * (1 + MORE * (size - 1))

    def _one(self) -> float:
        """Seconds of a plain pass, in the unit of what was measured."""
        if (found := self.costs.get((1, False))) is not None:
            return found
        found_all = [
            seconds / (1 + MORE * (size - 1)) / (self.head_cost if heads else 1)
            for (size, heads), seconds in self.costs.items()
        ]
        return min(found_all, default=1.0)

    def kept(
        self, source: str, draft: list[int], gained: list[int], first: int = 0
    ) -> bool:
        """Holds what was drafted against what the model chose, as far as that is known.

        Args:
          first: place in the draft of the first of these tokens.

        Returns:
          Whether all that is known was the same.
        """
        for place, (token, own) in enumerate(zip(draft, gained, strict=False), first):
            self._rate(source, place).count(token == own)
            if token != own:
                return False
        return True

    def expected(self, source: str, drafted: int) -> float:
        """`E(J)`."""
        total = product = 1.0
        for place in range(drafted):
            product *= self._rate(source, place).value
            total += product
        return total

    def choose(self, drafts: list[tuple[str, int]], heads: bool = False) -> int:
        """Tokens of the next pass.

        Args:
          drafts: of each row that is not at rest, its source and how long it is.
          heads: whether the heads draft in the pass.
        """
        self.quiet += 1
        # A draft has to win against what a plain pass was seen to take.
        drafted = any(length for _, length in drafts)
        if not drafted or (1, heads) not in self.costs:
            return 1
        gains = {
            size: sum(self.expected(s, min(n, size - 1)) for s, n in drafts)
            / self.cost(size, heads)
            for size in SIZES
        }
        best = max(SIZES, key=lambda size: gains[size])
        if gains[best] > MARGIN * gains[1]:
            self.quiet = 0
            return best
        return 1 if self.quiet % PROBE else SIZES[1]

    def heads_pay(self, count: int) -> bool:
        """Whether passes in which so many heads draft are faster than plain ones.

        Now and then it says so to find out.
        """
        gains = [
            self.expected("heads", min(count, size - 1)) / self.cost(size, True)
            for size in SIZES[1:]
        ]
        self._turns += 1
        pays = max(gains) > MARGIN / self.cost(1)
        return pays or self._turns % PROBE < LOOKS

    def _rate(self, source: str, place: int) -> Rate:
        return self.rates.setdefault((source, place), Rate())
