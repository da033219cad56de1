"""Prompt lookup against a search through the whole text."""

from hypothesis import given
from hypothesis import strategies as st

from shared.decoding.ngram import LONGEST, Lookup


def by_search(tokens: list[int], most: int) -> tuple[list[int], int]:
    """The newest place before the end where the longest end stands once more."""
    for n in range(min(LONGEST, len(tokens) - 1), 0, -1):
        for end in range(len(tokens) - 1, n - 1, -1):
            if tokens[end - n : end] == tokens[len(tokens) - n :]:
                said = list(tokens)
                for i in range(most):  # what it drafts it may read again
                    said.append(said[end + i])
                return said[len(tokens) :], n
    return [], 0


@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.integers(0, 3), max_size=8),
    st.integers(0, 9),
)
def test_the_newest_and_longest_match(first, more, most):
    lookup = Lookup(first)
    assert lookup.draft(most) == by_search(first, most)
    for token in more:
        lookup.extend([token])
    assert lookup.tokens == first + more
    assert lookup.draft(most) == by_search(first + more, most)
