"""The weights on random shapes, packings, masks and scores: oracle and invariances."""

import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import axes, weighting
from tests.formulas import (
    FORMULAS,
    SCORES,
    SETTINGS,
    arrays_of,
    close,
    example,
    strict_api,
)

# Always the same examples. 25, not 40: 10 s of the processor for this file, not 15.
repeatable = settings(max_examples=25, deadline=None, derandomize=True)

# One document: (padding before it, tokens, targets); T(d) is the end of the document
# and never holds its first token. What stands first is tried most.
DOCUMENT = st.sampled_from([4, 6, 8, 3, 2, 1]).flatmap(
    lambda n: st.tuples(
        st.integers(0, 1), st.just(n), st.integers(0, n - 1).map(lambda t: n - 1 - t)
    )
)
ROWS = st.lists(st.lists(DOCUMENT, max_size=3), min_size=1, max_size=3)


@st.composite
def examples(draw):
    """Arrays of a drawn shape. Their numbers, and `a.settings`, come from a seed."""
    rows, num_heads = draw(ROWS), draw(st.sampled_from([2, 3, 4, 1]))
    padding, spare = draw(st.integers(0, 2)), draw(st.integers(0, 1))
    drawn = (rows, num_heads, padding, spare, draw(st.integers(0, 2**32 - 1)))
    # Hypothesis would try the same few seeds again and again: this spreads them.
    rng = np.random.default_rng(zlib.crc32(repr(drawn).encode()))
    a = example(
        rows,
        num_heads=num_heads,
        length=max(1, padding + max(sum(gap + n for gap, n, _ in row) for row in rows)),
        scores=rng.choice(list(SCORES)),
        seed=rng.integers(2**32),
        spare=spare,
    )
    choices = {
        "temperature": [0.1, 0.7, 5.0, 1e6],
        "weight_floor": [0.0, 0.05, 0.5, 1.0],
        "weight_ceiling": [1.0, 1.2, 3.0, np.inf],
        "skip_fraction": [0.0, 0.3, 0.9999 * rng.random()],
        "discount": [0.0, 0.9, 1.0],
        "gae_lambda": [0.0, 0.8, 1.0],
        "excess_floor": [0.0, 0.2],
    }
    a.settings = SimpleNamespace(
        head_weight=rng.choice([0.0, 0.5, 1.0, 2.0], 4).tolist(),
        **{name: float(rng.choice(values)) for name, values in choices.items()},
    )
    return a


def documents(a):
    """(row, which positions are in the document) of every document."""
    for b, d in np.ndindex(len(a.document_BL), a.member_BLS.shape[2]):
        yield b, a.member_BLS[b, :, d]


@settings(repeatable, max_examples=30)
@given(examples())
def test_formulas_equal_the_oracle(a):
    for formula, (ours, theirs) in FORMULAS.items():
        expected = theirs(a, a.settings)
        # Soft: 50 bisections of exponents that span up to 1e6 leave about 1e-9.
        tolerance = 1e-7 if formula.startswith("soft") else 1e-9
        for library in ("numpy", "strict"):
            with strict_api():
                arrays = SimpleNamespace(**arrays_of(library, "float64", a))
                out = ours(arrays, a.settings)
            out = [np.asarray(x) for x in (out if isinstance(out, tuple) else (out,))]
            close(out, expected, tolerance, f"{formula} on {library}")


@repeatable
@given(examples())
def test_document_members(a):
    most = a.member_BLS.shape[2]
    member_BLS = axes.document_members(a.document_BL, num_documents=most)
    for (b, at), number in np.ndenumerate(a.document_BL):
        assert member_BLS[b, at].tolist() == [number == s + 1 for s in range(most)]


def soft(a, s=SETTINGS, scope="document", **changes):
    names = ("temperature", "weight_floor", "weight_ceiling")
    options = {name: getattr(s, name) for name in names} | {"scope": scope} | changes
    score_BLK = options.pop("score_BLK", a.score_BLK)
    return weighting.soft_weights(score_BLK, a.mask_BLK, a.member_BLS, **options)


@repeatable
@given(examples(), st.sampled_from(["document", "window"]))
def test_soft_weights_are_bounded_with_mean_1(a, scope):
    s = a.settings
    w_BLK = soft(a, s, scope)
    valid, masked = w_BLK[a.mask_BLK], w_BLK[~a.mask_BLK]
    assert (masked == 0).all()
    assert (valid >= s.weight_floor - 1e-12).all()
    assert (valid <= s.weight_ceiling + 1e-12).all()
    windows = np.ndindex(a.document_BL.shape)
    for place in documents(a) if scope == "document" else windows:
        count = a.mask_BLK[place].sum()
        assert w_BLK[place].sum() == pytest.approx(count, abs=1e-7)


@repeatable
@given(examples(), st.sampled_from(["document", "window"]))
def test_soft_weights_special_cases(a, scope):
    ones_BLK = weighting.uniform_weights(a.score_BLK, a.mask_BLK)
    for change in (
        {"score_BLK": np.full_like(a.score_BLK, -7.3)},
        {"temperature": 1e12},
        {"weight_floor": 1.0},
        {"weight_ceiling": 1.0},
    ):
        np.testing.assert_allclose(soft(a, scope=scope, **change), ones_BLK, atol=1e-6)
    # One constant per document is one constant per window too.
    shift_BL = (a.document_BL * 3.7 - 5.0)[:, :, None]
    np.testing.assert_allclose(
        soft(a, scope=scope, score_BLK=a.score_BLK + shift_BL),
        soft(a, scope=scope),
        atol=1e-7,
    )


@repeatable
@given(examples())
def test_skip_keeps_or_drops_a_token_for_all_heads(a):
    w_BLK = FORMULAS["skip_weights"][0](a, a.settings)
    kept_BL = np.zeros(a.target_BL.shape, bool)
    kept_BL[:, 1:] = w_BLK[:, :-1, 0] == 1
    expected_BLK = axes.shift_to_heads(kept_BL, num_heads=w_BLK.shape[2]) & a.mask_BLK
    assert (w_BLK == expected_BLK).all()
    for b, here in documents(a):
        kept = a.score_BL[b, here & kept_BL[b]]
        dropped = a.score_BL[b, here & a.target_BL[b] & ~kept_BL[b]]
        if len(kept) and len(dropped):
            assert dropped.max() <= kept.min()
    nothing_skipped = FORMULAS["skip_weights"][0](a, SimpleNamespace(skip_fraction=0.0))
    assert (nothing_skipped == a.mask_BLK).all()


@pytest.mark.parametrize(
    ("fraction", "ten_thousandths"),
    [(0.0, 0), (0.00004, 0), (0.29, 2900), (0.3, 3000), (1 / 3, 3333), (0.9999, 9999)],
)
def test_skip_drops_by_the_integer_rule(fraction, ten_thousandths):
    rng = np.random.default_rng(7)
    for n in [*range(13), 29, 30, 100, 1000]:
        a = example([[(0, n + 1, n)]], num_heads=1, length=n + 2)
        a.score_BL = rng.integers(0, 4, (1, n + 2)).astype(float)
        w_BLK = FORMULAS["skip_weights"][0](a, SimpleNamespace(skip_fraction=fraction))
        assert w_BLK.sum() == n - n * ten_thousandths // 10000, n


# Documents do not see each other.

BY_DOCUMENT = [
    "soft_weights document",
    "soft_weights window",
    "skip_weights",
    "token_rewards uniform",
    "token_rewards last",
    "td_errors",
    "advantages",
    "returns",
    "z_score",
]


@repeatable
@given(examples())
def test_packing_changes_nothing(a):
    arrays = {name: x for name, x in vars(a).items() if "_BL" in name}
    for formula in BY_DOCUMENT:
        ours = FORMULAS[formula][0]
        packed = ours(a, SETTINGS)
        for row, numbers_L in enumerate(a.document_BL):
            alone = [np.flatnonzero(numbers_L == d) for d in set(numbers_L) - {0}]
            backwards = np.argsort(-numbers_L, kind="stable")
            for order in [*alone, backwards]:
                moved = {name: x[row : row + 1, order] for name, x in arrays.items()}
                out = ours(SimpleNamespace(**moved), SETTINGS)
                # Other neighbours in a sum round otherwise: huge scores to 1e-10.
                close([out], packed[row : row + 1, order], 1e-9, formula)


@repeatable
@given(examples())
def test_shuffle_keeps_the_scores_of_each_document(a):
    shuffled_BL = weighting.shuffle_scores(a.score_BL, a.permutation_BL)
    assert (shuffled_BL[~a.target_BL] == a.score_BL[~a.target_BL]).all()
    for b, here in documents(a):
        in_d = here & a.target_BL[b]
        assert sorted(shuffled_BL[b, in_d]) == sorted(a.score_BL[b, in_d])


# The critic's numbers


@repeatable
@given(examples())
def test_advantages_between_td_and_monte_carlo(a):
    discount = a.settings.discount
    td_BL = weighting.td_errors(a.nll_BL, a.value_BL, a.target_BL, discount=discount)

    def advantages(gae_lambda):
        options = {"discount": discount, "gae_lambda": gae_lambda}
        return weighting.advantages(td_BL, a.target_BL, **options)

    assert (advantages(0.0) == td_BL).all()
    advantage_BL = advantages(1.0)
    for b, here in documents(a):
        discounted = 0.0
        for j in reversed(np.flatnonzero(here & a.target_BL[b])):
            discounted = a.nll_BL[b, j] + discount * discounted
            expected = discounted - a.value_BL[b, j - 1]
            assert advantage_BL[b, j] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("equal", [0.1, -3.3, 1e6 / 3])
def test_explained_variance_of_perfect_constant_and_pointless_critics(equal):
    rng = np.random.default_rng(0)
    return_N, everything = rng.normal(size=7), np.ones(7, bool)

    def explained(return_N, value_N, mask_N=everything):
        return float(weighting.explained_variance(return_N, value_N, mask_N))

    assert explained(return_N, return_N) == 1.0
    assert explained(return_N, return_N + 2.0) == pytest.approx(1.0)
    assert explained(return_N, np.full(7, equal)) == pytest.approx(0.0, abs=1e-9)
    assert explained(return_N, -return_N) == pytest.approx(-3.0)
    # Nothing to explain: 0, though a plain mean of equal numbers may round.
    assert explained(np.full(7, equal), return_N) == 0.0
    assert explained(return_N, return_N, np.zeros(7, bool)) == 0.0


@pytest.mark.parametrize("rewards", [[5.0], [0.1] * 7, [2.0, 2.0 + 1e-7]])
def test_rewards_that_are_all_alike_whiten_to_0(rewards):
    reward_N = np.array(rewards)
    white_N = weighting.whiten(reward_N, *weighting.reward_moments(reward_N))
    assert (white_N == 0).all()


@repeatable
@given(examples())
def test_effective_sample_size_and_entropy_have_their_bounds(a):
    n = int(a.mask_BLK.sum())
    uniform = weighting.weight_sums(
        weighting.uniform_weights(a.score_BLK, a.mask_BLK), a.mask_BLK
    )
    assert float(weighting.effective_sample_size(uniform)) == n
    assert float(weighting.weight_entropy(uniform)) == pytest.approx(np.log(max(n, 1)))
    weighted = weighting.weight_sums(soft(a, a.settings), a.mask_BLK)
    ess = float(weighting.effective_sample_size(weighted))
    entropy = float(weighting.weight_entropy(weighted))
    assert ess == entropy == 0 if n == 0 else 0 < ess <= n + 1e-7
    assert -1e-7 <= entropy <= np.log(max(n, 1)) + 1e-7
    assert weighted["count"] == n and weighted["kept"] <= n


@repeatable
@given(examples())
def test_sums_add_over_micro_batches(a):
    head_weight = SETTINGS.head_weight[: a.w_BLK.shape[2]]

    def loss_and_statistics(rows):
        pair = weighting.weighted_sum(
            a.nll_BLK[rows], a.w_BLK[rows], head_weight=head_weight
        )
        statistics = weighting.weight_sums(a.w_BLK[rows], a.mask_BLK[rows])
        return *pair, *statistics.values()

    one_by_one = [loss_and_statistics([row]) for row in range(len(a.w_BLK))]
    whole = loss_and_statistics(slice(None))
    assert np.isfinite(whole).all()
    close(np.sum(one_by_one, axis=0), whole, 1e-9, "micro-batches")
