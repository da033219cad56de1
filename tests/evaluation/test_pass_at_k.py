"""pass@k against every choice of k samples."""

from itertools import combinations

import pytest

from shared.evaluation.results.pass_at_k import mean_pass_at_k, pass_at_k


@pytest.mark.parametrize("n", range(1, 9))
def test_equals_the_share_of_choices_that_hold_a_right_sample(n):
    for c in range(n + 1):
        for k in range(1, n + 1):
            choices = list(combinations([True] * c + [False] * (n - c), k))
            share = sum(any(choice) for choice in choices) / len(choices)
            assert pass_at_k(n, c, k) == share


def test_grows_with_k_and_with_right_samples():
    for n, c, k in ((200, 3, 10), (32, 31, 31), (1000, 1, 999)):
        assert pass_at_k(n, c, k) <= pass_at_k(n, c, k + 1)
        assert pass_at_k(n, c, k) <= pass_at_k(n, c + 1, k)
    assert pass_at_k(10_000, 1, 1) == 1e-4


def test_the_mean_is_over_problems():
    assert mean_pass_at_k([(4, 1), (4, 4), (2, 0)], 2) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "n, c, k, message",
    [
        (5, 0, 10, "k must be 1 to the number of samples, got 10 of 5"),
        (5, 0, 0, "k must be 1 to the number of samples, got 0 of 5"),
        (5, 6, 1, "right samples must be 0 to n, got 6 of n = 5"),
        (5, -1, 1, "right samples must be 0 to n, got -1 of n = 5"),
        (-1, 0, 1, "right samples must be 0 to n, got 0 of n = -1"),
    ],
)
def test_refuses_what_cannot_be(n, c, k, message):
    with pytest.raises(ValueError) as refused:
        pass_at_k(n, c, k)
    assert str(refused.value) == message


def test_refuses_no_problem():
    with pytest.raises(ValueError, match="at least one problem, got none"):
        mean_pass_at_k([], 1)
