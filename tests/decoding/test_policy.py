"""How much is drafted: what the arithmetic says, and never much worse than nothing."""

import random
from math import prod

import pytest

from shared.decoding.acceptance import Acceptance
from shared.decoding.policy import MARGIN, SIZES, Policy, Rate

ORACLE = {1: 1.0, 4: 1.2, 8: 1.7}  # seconds of a pass, by its tokens


def taught(rates: dict[str, list[float]], costs: dict[int, float]) -> Policy:
    policy = Policy()
    for size, seconds in costs.items():
        for heads in (False, True):
            policy.measured(size, heads, seconds)
    for source, own in rates.items():
        for place, rate in enumerate(own):
            policy.rates[source, place] = Rate(kept=1000 * rate, seen=1000)
    return policy


def gains(rates, costs):
    """Tokens in a second by size, written out."""
    lengths = {size: min(len(rates), size - 1) for size in SIZES}
    tokens = {
        size: 1 + sum(prod(rates[: i + 1]) for i in range(n))
        for size, n in lengths.items()
    }
    return {size: tokens[size] / costs[size] for size in SIZES}


@pytest.mark.parametrize(
    "rates", [[0.95] * 7, [0.8] * 7, [0.5] * 7, [0.3] * 7, [0.05] * 7, [0.9, 0.9, 0.1]]
)
@pytest.mark.parametrize("costs", [ORACLE, {1: 1.0, 4: 2.5, 8: 4.5}])
def test_it_takes_what_is_expected_to_be_fastest(rates, costs):
    policy = taught({"heads": rates}, costs)
    of = gains(rates, costs)
    best = max(SIZES, key=of.get)
    right = best if of[best] > MARGIN * of[1] else 1
    assert policy.choose([("heads", len(rates))]) == right
    assert policy.choose([("", 0)]) == 1


@pytest.mark.parametrize("costs", [ORACLE, {1: 1.0, 4: 3.0, 8: 6.0}])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6, 0.9])
@pytest.mark.parametrize("source", ["ngram 1", "heads"])
def test_it_costs_at_most_a_twentieth(costs, rate, source):
    """A simulated text of 4000 tokens, from a policy that knows nothing."""
    rng, policy = random.Random(0), Policy()
    is_heads = source == "heads"
    seconds, tokens, plain = 0.0, 0, 0
    while tokens < 4000:
        heads = is_heads and policy.heads_pay(7)
        drafts = 7 if heads or not is_heads else 0
        size = policy.choose([(source, drafts)], heads)
        cost = costs[size] * (1.05 if heads else 1)  # in units of 10 ms
        policy.measured(size, heads, 0.01 * cost)
        right = [rng.random() < rate for _ in range(7)]
        agreed = [*right, False].index(False)
        gained = 1 + min(agreed, size - 1)
        if drafts:
            policy.kept(source, [int(x) for x in right], [1] * gained)
        seconds, tokens, plain = seconds + cost, tokens + gained, plain + (size == 1)
    assert tokens / seconds >= 0.95
    if rate < 0.2 and costs is not ORACLE:
        assert plain > 0.95 * tokens
    if rate == 0.9 and costs is ORACLE:
        assert tokens / seconds > 1.1


def test_costs_and_rates():
    policy = Policy()
    assert policy.cost(1) == 1 and policy.cost(4) == pytest.approx(1.3)
    policy.measured(4, False, 2.0)
    policy.measured(4, False, 100.0)  # counts as 4
    assert policy.cost(4) == pytest.approx(2.2)
    before = policy.expected("heads", 2)
    policy.kept("heads", [5, 6, 7], [5, 8])
    assert policy.rates["heads", 0].value > 0.5 > policy.rates["heads", 1].value
    assert ("heads", 2) not in policy.rates or policy.rates["heads", 2].value == 0.5
    assert before == 1.75


def test_one_unit_of_costs():
    """What was measured of some sizes says what the others cost."""
    policy = Policy()
    policy.measured(4, False, 0.013)
    assert policy.cost(1) == pytest.approx(0.01)
    assert policy.cost(8) == pytest.approx(0.017)


def test_counts_of_acceptance_by_hand():
    """Four passes: no draft; 3 of 3 kept; 1 of 3; 0 of 2."""
    counts = Acceptance()
    for drafted, gained in ((0, 1), (3, 4), (3, 2), (2, 1)):
        counts.count(drafted, gained)
    assert counts.summary() == {
        "tokens_per_forward": 8 / 4,
        "mean_acceptance_length": 1 + 4 / 3,
        "acceptance_rate": 4 / 8,
        "joint_prefix_rate": [2 / 3, 1 / 3, 1 / 3],
        "passes": 4,
        "drafts": 3,
        "tokens": 8,
    }
    assert Acceptance().summary()["tokens_per_forward"] == 0
