"""Prompt lookup: what followed the last time that the text ended as it does now.

The baseline of drafters: it costs no weights and knows nothing but the text so far.
"""

from collections.abc import Sequence

LONGEST, SHORTEST = 4, 1  # tokens that have to be the same


class Lookup:
    """The n-grams of one growing text, each with where it last ended.

    Example:
      >>> lookup = Lookup([1, 2, 3, 4, 1, 2])
      >>> lookup.draft(3)
      ([3, 4, 1], 2)
    """

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self.tokens: list[int] = []
        # Without the text's own end, which every n-gram there would find.
        self.ends: dict[tuple[int, ...], int] = {}
        self.extend(tokens)

    def extend(self, tokens: Sequence[int]) -> None:
        """Adds what the text has gained."""
        for token in tokens:
            end = len(self.tokens)
            for n in range(SHORTEST, LONGEST + 1):
                if n <= end:
                    self.ends[tuple(self.tokens[end - n :])] = end
            self.tokens.append(token)

    def draft(self, most: int) -> tuple[list[int], int]:
        """At most so many tokens, and how many before them were the same; `[], 0`."""
        end = len(self.tokens)
        for n in range(min(LONGEST, end - 1), SHORTEST - 1, -1):
            found = self.ends.get(tuple(self.tokens[end - n :]))
            if found is not None:
                return self._follow(found, most), n
        return [], 0

    def _follow(self, start: int, most: int) -> list[int]:
        """What followed there; where that is the end itself, it goes round again."""
        drafted: list[int] = []
        period = len(self.tokens) - start
        for i in range(most):
            drafted.append(self.tokens[start + i % period])
        return drafted
