"""Who drafts, and how much: the bookkeeping between rows and policy.

Drafters: `ngram` (what followed the last time), `heads` (of the model), `both`: of the
two the one from which more is expected. A pass has one size for all rows.
"""

from shared.decoding.policy import SIZES, Policy
from shared.decoding.requests import DRAFTERS
from wmtp_jax.decoding.programs import MOST_STEPS
from wmtp_jax.decoding.samples import Sample

Draft = tuple[list[int], str]  # tokens, and where they are from
Drafts = dict[int, Draft]  # by row
QUICK = 0.01  # seconds of a pass beside which those of a call are not small
PATIENCE, SOME_STEPS = 16, 4  # passes without drafts, and then passes of a call


class Drafting:
    """The drafter of an engine, with a policy for each number of rows.

    Attributes:
      name: `none`, `ngram`, `heads` or `both`.
    """

    def __init__(self, drafter: str, heads: int) -> None:
        if drafter not in DRAFTERS:
            raise ValueError(
                f"the drafter must be {', '.join(DRAFTERS[:-1])} or {DRAFTERS[-1]}, "
                f"got {drafter!r}"
            )
        if drafter in ("heads", "both") and not heads:
            raise ValueError(
                f"the drafter {drafter} needs a model with heads k >= 1, got one "
                "without (`ngram` needs none)"
            )
        if drafter == "auto":
            drafter = "both" if heads else "ngram"
        self.name, self.heads = drafter, heads
        self.policies: dict[int, Policy] = {}

    @property
    def uses_heads(self) -> bool:
        return self.name in ("heads", "both")

    def until_next_look(self, rows: int, heads: bool) -> int:
        """How many plain passes run in one call, before drafts are looked for again.

        A call costs the host a few milliseconds. Where a pass takes little more, and
        where drafts have not paid for a while, not every token is worth one.
        """
        policy = self.policy(rows)
        if self.name == "none" or (policy.cost(1) < QUICK and not heads):
            return MOST_STEPS
        return SOME_STEPS if policy.quiet >= PATIENCE and not heads else 1

    def policy(self, rows: int) -> Policy:
        """What is known of so many rows; new ones begin with what fewer have taught."""
        if rows not in self.policies:
            self.policies[rows] = Policy()
            if self.policies.keys() - {rows}:
                near = min(self.policies.keys() - {rows}, key=lambda n: abs(n - rows))
                self.policies[rows].rates = self.policies[near].rates
        return self.policies[rows]

    def wants_heads(self, rows: int) -> bool:
        """Whether the heads draft in the next pass."""
        return self.uses_heads and self.policy(rows).heads_pay(self.heads)

    def plan(self, running: list[Sample | None], heads: bool) -> tuple[int, Drafts]:
        """Tokens of the next pass, and the drafts that it verifies, by row."""
        if self.name == "none":
            return 1, {}
        policy = self.policy(len(running))
        best: Drafts = {}
        for row, sample in enumerate(running):
            if sample is not None:
                sample.candidates = self._candidates(sample)
                best[row] = max(
                    sample.candidates,
                    key=lambda c: policy.expected(c[1], len(c[0])),
                    default=([], ""),
                )
        size = policy.choose([(s, len(tokens)) for tokens, s in best.values()], heads)
        return size, {
            row: (tokens[: size - 1], source)
            for row, (tokens, source) in best.items()
            if tokens and size > 1
        }

    def learn(self, rows: int, sample: Sample, gained: list[int]) -> None:
        """Holds all that was drafted, verified or not, against what the row gained.

        What is left of a draft that was right so far waits for the next tokens.
        """
        policy, waiting = self.policy(rows), []
        drafts = [(tokens, source, 0) for tokens, source in sample.candidates]
        for tokens, source, first in [*sample.waiting, *drafts]:
            rest = tokens[len(gained) :]
            if policy.kept(source, tokens, gained, first) and rest:
                waiting.append((rest, source, first + len(gained)))
        sample.waiting = waiting

    def measured(self, rows: int, size: int, heads: bool, seconds: float) -> None:
        """A pass took so long."""
        self.policy(rows).measured(size, heads, seconds)

    def _candidates(self, sample: Sample) -> list[Draft]:
        found: list[Draft] = []
        most = min(SIZES[-1], sample.left) - 1
        if self.name in ("ngram", "both"):
            tokens, same = sample.lookup.draft(most)
            if tokens:
                found.append((tokens, f"ngram {same}"))
        if sample.drafted and most > 0:
            found.append((sample.drafted[:most], "heads"))
        return found
