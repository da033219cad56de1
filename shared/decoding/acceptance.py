"""How many drafts the model keeps, in the words that vLLM uses.

    mean acceptance length = 1 + accepted / drafts      (the model's own token counted)
    acceptance rate        = accepted / drafted tokens
    rate at position j     = drafts of which j tokens were kept / drafts

A *draft* is what one forward pass verifies for one row; a pass without drafted tokens
for a row is a pass, and no draft.

What the heads could draft is told apart from that, by teacher forcing over texts that
the model has written: of every position before a written token, whether head k's most
probable token is the text's own (`Agreement`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Integer


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


@dataclass
class Agreement:
    """Counts of the heads' most probable tokens against the texts' own, K heads.

    At position `l` head k's token is held against `tokens[l + 1 + k]`, which must be
    one that the model has written. Head 0 is the model itself: it agrees everywhere,
    but for ties that computing in other blocks breaks.

    Attributes:
      seen, agreed: of each head k.
      control_seen, control: the same against `tokens[l + 2 + k]`, one place too far,
        where that is another token.
      whole: positions at which all heads can be held against a token.
      joint: of these, those at which the heads 1 to k all agree; `joint[0]` is `whole`.

    Example:
      >>> counts = Agreement(2)
      >>> counts.count(np.asarray([[7, 8], [8, 0], [9, 9]]), [1, 7, 8, 9], 1)
      >>> counts.agreed, counts.seen
      ([3, 1], [3, 2])
    """

    heads: int
    seen: list[int] = field(init=False)
    agreed: list[int] = field(init=False)
    control_seen: list[int] = field(init=False)
    control: list[int] = field(init=False)
    joint: list[int] = field(init=False)
    whole: int = 0

    def __post_init__(self) -> None:
        for name in ("seen", "agreed", "control_seen", "control", "joint"):
            setattr(self, name, [0] * self.heads)

    def count(
        self, best_LK: Integer[np.ndarray, "L K"], tokens: Sequence[int], prompt: int
    ) -> None:
        """Adds one text.

        Args:
          best_LK: head k's most probable token at each position; the last of a text
            may be left out.
          tokens: of the prompt and of what the model wrote behind it.
          prompt: how many of them are the prompt's, at least 1.
        """
        tokens_L, first = np.asarray(tokens), prompt - 1
        agree = []
        for k in range(self.heads):
            own = tokens_L[first + 1 + k :]
            agree.append(best_LK[first : first + len(own), k] == own)
            self.seen[k] += len(own)
            self.agreed[k] += int(agree[k].sum())
            far, differ = own[1:], own[1:] != own[:-1]
            hit = best_LK[first : first + len(far), k] == far
            self.control_seen[k] += int(differ.sum())
            self.control[k] += int((hit & differ).sum())
        whole = len(agree[-1])
        together = np.ones(whole, bool)
        self.whole += whole
        for k in range(self.heads):
            together &= agree[k][:whole] if k else True
            self.joint[k] += int(together.sum())

    def rows(self) -> list[dict[str, float]]:
        """Of each head k, 0 included: agreement, control, joint prefix; all in [0, 1].

        Where nothing was seen they are 0.
        """
        return [
            {
                "head": k,
                "agreement": self.agreed[k] / max(1, self.seen[k]),
                "control": self.control[k] / max(1, self.control_seen[k]),
                "joint_prefix_rate": self.joint[k] / max(1, self.whole),
                "positions": self.seen[k],
            }
            for k in range(self.heads)
        ]

    @property
    def length(self) -> float:
        """Mean acceptance length if the heads drafted at every position.

        1 + joint[1] + ... + joint[K - 1], as rates; the model's own token counted.
        """
        return 1 + sum(self.joint[1:]) / max(1, self.whole)
