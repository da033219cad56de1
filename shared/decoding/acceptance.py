"""How many drafts the model keeps, in the words that vLLM uses.

    mean acceptance length = 1 + accepted / drafts      (the model's own token counted)
    acceptance rate        = accepted / drafted tokens
    rate at position j     = drafts of which j tokens were kept / drafts

A *draft* is what one forward pass verifies for one row; a pass without drafted tokens
for a row is a pass, and no draft.
"""

from dataclasses import dataclass, field


@dataclass
class Acceptance:
    """Counts of one drafter, or of several together.

    Attributes:
      passes: forward passes of the model, a row each.
      drafts: those in which something was drafted.
      drafted, accepted: tokens.
      at: drafts of which at least j + 1 tokens were kept, by j.
      tokens: that the texts gained.
    """

    passes: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    tokens: int = 0
    at: list[int] = field(default_factory=list)

    def count(self, drafted: int, gained: int) -> None:
        """One pass of one row, which drafted and gained so many tokens."""
        self.passes += 1
        self.tokens += gained
        if not drafted:
            return
        accepted = min(drafted, gained - 1)
        self.drafts += 1
        self.drafted += drafted
        self.accepted += accepted
        self.at += [0] * (drafted - len(self.at))
        for j in range(accepted):
            self.at[j] += 1

    def summary(self) -> dict[str, float | list[float]]:
        """The report's figures; an empty count gives zeros."""
        drafts = max(1, self.drafts)
        return {
            "tokens_per_forward": self.tokens / max(1, self.passes),
            "mean_acceptance_length": 1 + self.accepted / drafts,
            "acceptance_rate": self.accepted / max(1, self.drafted),
            "joint_prefix_rate": [n / drafts for n in self.at],
            "passes": self.passes,
            "drafts": self.drafts,
            "tokens": self.tokens,
        }
