"""The oracle against numbers worked out by hand (the workings are in the comments)."""

import itertools
import math

import numpy as np
import pytest

from tests import oracle

# One row: document 1 is tokens 10 11 12, document 2 is 20 21 22 23 with a prompt of two
# tokens, then one cell of padding. T(1) = {1, 2}, T(2) = {5, 6}.
TOKENS = [[10, 11, 12, 20, 21, 22, 23, 0]]
DOCUMENT = [[1, 1, 1, 2, 2, 2, 2, 0]]
TARGET = [[False, True, True, False, False, True, True, False]]

# The critic's example: one document of 4 tokens with T = {1, 2, 3}, then padding.
CRITIC_DOCUMENT = [[1, 1, 1, 1, 0]]
CRITIC_TARGET = [[False, True, True, True, False]]
VALUE = [[1.0, 2.0, 3.0, 4.0, 9.0]]


def close(actual, expected, tolerance=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def soft(scores, floor=0.0, ceiling=math.inf, temperature=1.0):
    """Soft weights of one document whose targets, read by head 0, have these scores."""
    length = len(scores) + 1
    score_BLK = np.array([[[score] for score in [*scores, 77.0]]])
    mask_BLK = np.array([[[True]] * len(scores) + [[False]]])
    w_BLK = oracle.soft_weights(
        score_BLK, mask_BLK, [[1] * length], temperature, floor, ceiling, "document"
    )
    assert w_BLK.shape == (1, length, 1) and w_BLK.dtype == np.float64
    assert w_BLK[0, -1, 0] == 0.0
    return w_BLK[0, :-1, 0]


def test_shift_reads_l_plus_1_plus_k():
    shifted = oracle.shift_to_heads([[5.0, 6.0, 7.0]], 3)
    close(shifted, [[[6, 7, 0], [7, 0, 0], [0, 0, 0]]])


def test_targets_and_mask_stay_in_their_document():
    targets_BLK, mask_BLK = oracle.targets_and_mask(TOKENS, DOCUMENT, TARGET, 3)
    assert targets_BLK[0, :, 0].tolist() == [11, 12, 20, 21, 22, 23, 0, 0]
    assert targets_BLK[0, :, 1].tolist() == [12, 20, 21, 22, 23, 0, 0, 0]
    assert targets_BLK[0, :, 2].tolist() == [20, 21, 22, 23, 0, 0, 0, 0]
    assert mask_BLK[0].astype(int).tolist() == [
        [1, 1, 0],  # tokens 1, 2 of document 1; 3 is another document's
        [1, 0, 0],
        [0, 0, 0],  # 5 is a target, but not of the document of position 2
        [0, 1, 1],  # 4 is prompt; 5, 6 count from the prompt position 3
        [1, 1, 0],  # 5, 6; then padding
        [1, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
    ]


def test_more_heads_than_positions():
    targets_BLK, mask_BLK = oracle.targets_and_mask([[3, 4]], [[1, 1]], [[0, 1]], 3)
    assert targets_BLK.tolist() == [[[4, 0, 0], [0, 0, 0]]]
    assert mask_BLK.tolist() == [[[True, False, False], [False, False, False]]]


def test_uniform_is_one_on_the_mask():
    close(oracle.uniform_weights([[[True, False], [True, True]]]), [[[1, 0], [1, 1]]])


@pytest.mark.parametrize(
    ("scores", "options", "expected"),
    [
        # e^score = 1, 3: mean 2, so 1/2 and 3/2.
        ([0.0, math.log(3)], {}, [0.5, 1.5]),
        # temperature 2: e^(score/2) = 1, 3 again.
        ([0.0, 2 * math.log(3)], {"temperature": 2.0}, [0.5, 1.5]),
        # 3/2 is over the ceiling 1.2; the other makes up the sum of 2.
        ([0.0, math.log(3)], {"ceiling": 1.2}, [0.8, 1.2]),
        # 1/2 is under the floor 3/4; the other gives up 1/4.
        ([0.0, math.log(3)], {"floor": 0.75}, [0.75, 1.25]),
        # 1 : 2 : 9 gives 1/4, 1/2, 9/4; capped at 3/2, the rest of 3/2 is shared 1 : 2.
        ([0.0, math.log(2), math.log(9)], {"ceiling": 1.5}, [0.5, 1.0, 1.5]),
        # both ends clipped: any c in between will do, the weights are the same.
        ([0.0, 1e4], {"floor": 0.5, "ceiling": 1.5}, [0.5, 1.5]),
        # floor 1/2: the two low ones take 1/2 each, 3 - 1 = 2 is left for the third.
        ([0.0, 1.0, 1e4], {"floor": 0.5, "ceiling": 3.0}, [0.5, 0.5, 2.0]),
        # no bounds: the best takes the whole sum of 3.
        ([-1e4, 0.0, 1e4], {}, [0.0, 0.0, 3.0]),
        # ceiling 3/2: it takes 3/2, the next 3/2, nothing is left.
        ([-1e4, 0.0, 1e4], {"ceiling": 1.5}, [0.0, 1.5, 1.5]),
        # the difference counts, not the size.
        ([1e4, 1e4 + math.log(3)], {}, [0.5, 1.5]),
        ([5.0, 5.0, 5.0], {"floor": 0.05, "ceiling": 3.0}, [1.0, 1.0, 1.0]),
        ([0.0, 1e4, 3.0], {"floor": 1.0, "ceiling": 1.0}, [1.0, 1.0, 1.0]),
        ([0.0, 1e4, 3.0], {"floor": 1.0, "ceiling": 9.0}, [1.0, 1.0, 1.0]),
        ([0.0, 1e4, 3.0], {"floor": 0.0, "ceiling": 1.0}, [1.0, 1.0, 1.0]),
        ([-1e4], {"floor": 0.05, "ceiling": 3.0}, [1.0]),
        ([0.0, 5.0], {"temperature": 1e15}, [1.0, 1.0]),
    ],
)
def test_soft_weights(scores, options, expected):
    close(soft(scores, **options), expected, 1e-11)


def test_soft_keeps_mean_order_and_bounds():
    scores = [math.sin(7.0 * i) * 4 for i in range(40)]
    w = soft(scores, floor=0.05, ceiling=3.0, temperature=0.7)
    assert math.fsum(w) == pytest.approx(40.0, abs=1e-10)
    assert min(w) == 0.05 and max(w) == 3.0
    order = sorted(range(40), key=lambda i: scores[i])
    assert all(w[i] <= w[j] for i, j in itertools.pairwise(order))
    inside = [
        i for i in range(40) if 0.05 < w[i] < 3.0
    ]  # there, log w - score/T = log c
    log_c = [math.log(w[i]) - scores[i] / 0.7 for i in inside]
    assert len(inside) > 5 and max(log_c) - min(log_c) < 1e-11


def test_soft_scopes():
    # Two documents of two positions, two heads; every e^score below is a small number.
    score_BLK = np.log([[[1.0, 3.0], [4.0, 1.0], [1.0, 1.0], [7.0, 5.0]]])
    mask_BLK = [[[True, True], [True, False], [True, False], [True, False]]]
    arguments = (score_BLK, mask_BLK, [[1, 1, 2, 2]], 1.0, 0.0, 100.0)
    # Document 1: 1, 3, 4 with mean 8/3. Document 2: 1, 7 with mean 4.
    by_document = [[[3 / 8, 9 / 8], [12 / 8, 0]], [[1 / 4, 0], [7 / 4, 0]]]
    close(
        oracle.soft_weights(*arguments, "document"),
        np.reshape(by_document, (1, 4, 2)),
    )
    # Window: 1, 3 have mean 2; a single head always gets 1.
    by_window = [[[1 / 2, 3 / 2], [1, 0], [1, 0], [1, 0]]]
    close(oracle.soft_weights(*arguments, "window"), by_window)
    with pytest.raises(ValueError, match="scope"):
        oracle.soft_weights(*arguments, "row")


def test_same_document_number_in_two_rows_is_two_documents():
    score_BLK = np.log([[[1.0], [3.0]], [[1.0], [1.0]]])
    mask_BLK = np.ones((2, 2, 1), dtype=bool)
    w_BLK = oracle.soft_weights(
        score_BLK, mask_BLK, [[1, 1], [1, 1]], 1.0, 0.0, 9.0, "document"
    )
    close(w_BLK[:, :, 0], [[0.5, 1.5], [1.0, 1.0]])


def test_all_masked_gives_no_weights():
    zeros = np.zeros((1, 3, 2))
    mask_BLK = zeros.astype(bool)
    document = [[0, 0, 0]]
    for scope in ("document", "window"):
        w_BLK = oracle.soft_weights(zeros, mask_BLK, document, 1.0, 0.05, 3.0, scope)
        close(w_BLK, zeros)
    close(oracle.skip_weights(zeros[:, :, 0], mask_BLK[:, :, 0], document, 2, 0), zeros)
    assert oracle.weighted_loss(zeros, zeros, [1.0, 1.0]) == (0.0, 0.0, 0.0)


def test_skip_drops_the_lowest_and_the_earlier_of_equals():
    document, target = [[1] * 6], [[False] + [True] * 5]
    score = [[-9.0, 2.0, 1.0, 3.0, 1.0, 1.0]]

    def kept(fraction):
        w_BLK = oracle.skip_weights(score, target, document, 1, fraction)
        return [l + 1 for l in range(6) if w_BLK[0, l, 0] == 1.0]  # noqa: E741

    assert kept(0.0) == [1, 2, 3, 4, 5]
    assert kept(0.3) == [1, 3, 4, 5]  # 5 * 3000 // 10000 = 1: token 2 before 4 and 5
    assert kept(0.4) == [1, 3, 5]  # 5 * 4000 // 10000 = 2
    assert kept(0.6) == [1, 3]  # 5 * 6000 // 10000 = 3 exactly
    assert kept(0.9) == [3]  # 5 * 9000 // 10000 = 4


def test_skip_counts_in_each_document_and_reaches_every_head():
    # n = 2 in each, fraction 1/2 drops one in each: token 2 (score 0) and 5 (score 8).
    score = [[0.0, 1.0, 0.0, 0.0, 0.0, 8.0, 9.0, 0.0]]
    w_BLK = oracle.skip_weights(score, TARGET, DOCUMENT, 4, 0.5)
    expected = np.zeros((1, 8, 4))
    expected[0, 0, 0] = 1  # token 1
    expected[0, 5, 0] = expected[0, 4, 1] = expected[0, 3, 2] = 1  # token 6
    # Head 3 at position 2 would read token 6 too, from document 1: no.
    close(w_BLK, expected)


def test_excess_loss():
    nll, ref_nll = [[7.0, 2.0, 1.0, 1.5]], [[0.0, 1.0, 3.0, 1.0]]
    target = [[False, True, True, True]]
    differences = [[0.0, 1.0, -2.0, 0.5]]
    close(oracle.excess_loss(nll, ref_nll, target, "signed", 0.0), differences)
    absolute = oracle.excess_loss(nll, ref_nll, target, "absolute", 0.0)
    close(absolute, [[0, 1, 2, 0.5]])
    # |1/2| < 1 counts as 0; |1| < 1 does not; the size is compared, so -2 stays.
    close(oracle.excess_loss(nll, ref_nll, target, "signed", 1.0), [[0, 1, -2, 0]])


def test_token_rewards():
    by_number = [{1: 6.0, 2: -4.0}]
    uniform = oracle.token_rewards(by_number, TARGET, DOCUMENT, "uniform")
    close(uniform, [[0, 3, 3, 0, 0, -2, -2, 0]])
    last = oracle.token_rewards([[99.0, 6.0, -4.0]], TARGET, DOCUMENT, "last")
    close(last, [[0, 0, 6, 0, 0, 0, -4, 0]])


def test_td_advantage_return_and_value_loss():
    # R = 6 on three targets is 2 each; discount 1/2.
    reward = oracle.token_rewards([{1: 6.0}], CRITIC_TARGET, CRITIC_DOCUMENT, "uniform")
    where = (CRITIC_TARGET, CRITIC_DOCUMENT)
    td_error = oracle.td_errors(reward, VALUE, *where, 0.5)
    # 2 + 2/2 - 1 = 2;  2 + 3/2 - 2 = 3/2;  2 + 0 - 3 = -1 (value 4 is never read).
    close(td_error, [[0, 2, 1.5, -1, 0]])
    # discount * lambda = 1/4, from the end: -1;  3/2 - 1/4 = 5/4;  2 + 5/16 = 37/16.
    advantage = oracle.advantages(td_error, *where, 0.5, 0.5)
    close(advantage, [[0, 37 / 16, 5 / 4, -1, 0]])
    # Stored where the value was read: 37/16 + 1, 5/4 + 2, -1 + 3.
    goal = oracle.returns(advantage, VALUE, CRITIC_TARGET)
    close(goal, [[53 / 16, 13 / 4, 2, 0, 0]])
    # value - return = -advantage: 1369/256 + 25/16 + 1 = 2025/256.
    total, count = oracle.value_loss(VALUE, goal, CRITIC_TARGET)
    assert (total, count) == (pytest.approx(2025 / 256, abs=1e-12), 3.0)


def test_gae_at_its_two_ends():
    where = (CRITIC_TARGET, CRITIC_DOCUMENT)
    reward = [[0.0, 2.0, 2.0, 2.0, 0.0]]
    td_error = oracle.td_errors(reward, VALUE, *where, 0.5)
    close(oracle.advantages(td_error, *where, 0.5, 0.0), td_error)
    # lambda 1: returns are the discounted rewards, 2, 2 + 1 = 3, 2 + 3/2 = 7/2.
    advantage = oracle.advantages(td_error, *where, 0.5, 1.0)
    goal = oracle.returns(advantage, VALUE, CRITIC_TARGET)
    close(goal, [[3.5, 3, 2, 0, 0]])


def test_critic_stays_in_its_document():
    # Documents 1 and 2 touch (T = {1}, {3}); values 1 2 4 8, rewards 5 and 7.
    document, target = [[1, 1, 2, 2]], [[False, True, False, True]]
    value = [[1.0, 2.0, 4.0, 8.0]]
    td_error = oracle.td_errors([[0, 5, 0, 7]], value, target, document, 0.5)
    close(td_error, [[0, 4, 0, 3]])  # 5 - 1 and 7 - 4: each target is a last one
    close(oracle.advantages(td_error, target, document, 1.0, 1.0), td_error)
    # The same with documents whose targets touch: T(1) = {1}, T(2) = {2}.
    touching = ([[False, True, True]], [[1, 1, 2]])
    close(oracle.advantages([[0, 4, 3]], *touching, 1.0, 1.0), [[0, 4, 3]])


def test_z_score():
    # Document 1: 1, 3 has mean 2, variance 1. Document 2: 5, 5 has variance 0.
    x = [[9.0, 1.0, 3.0, 9.0, 9.0, 5.0, 5.0, 9.0]]
    z = 1 / math.sqrt(1 + 1e-8)
    close(oracle.z_score(x, TARGET, DOCUMENT), [[0, -z, z, 0, 0, 0, 0, 0]])
    close(oracle.z_score([[4.0, 8.0]], [[False, True]], [[1, 1]]), [[0, 0]])


def test_rewards_are_whitened():
    # 1, 3, 5: mean 3, variance (4 + 0 + 4) / 3.
    mean, std = oracle.reward_moments([1.0, 3.0, 5.0])
    assert (mean, std) == (3.0, pytest.approx(math.sqrt(8 / 3)))
    close(oracle.whiten([7.0, 1.0], 3.0, 2.0), [2.0, -1.0])
    close(oracle.whiten([7.0, 1.0], 3.0, 9.9e-7), [0.0, 0.0])
    close(oracle.whiten([3.0 + 2e-6], 3.0, 1e-6), [2.0], 1e-9)  # not below 1e-6


def test_pseudo_reward():
    assert oracle.pseudo_reward([9.0, 1.0, 2.0], [False, True, True]) == -1.5
    assert oracle.pseudo_reward([9.0], [False]) == 0.0


def test_controls():
    score = [[0.0, 10.0, 20.0, 30.0]]
    close(oracle.shuffle_control(score, [[0, 3, 1, 2]]), [[0, 30, 10, 20]])
    close(oracle.random_control([[1.5, -2.0]], [[False, True]]), [[0, -2]])


def test_nll_from_logits():
    # Probabilities 1/4, 3/4; a shift by -80 or 1e4 changes nothing.
    logits = [[[[0.0, math.log(3)]], [[-80.0, -80.0 + math.log(3)]], [[1e4, 1e4]]]]
    nll_BLK = oracle.nll_from_logits(logits, [[[0], [1], [1]]])
    close(nll_BLK[0, :, 0], [math.log(4), math.log(4 / 3), math.log(2)])
    # A target far below the top: 1e4 + log(1 + e^-1e4) = 1e4.
    close(oracle.nll_from_logits([[[[0.0, 1e4]]]], [[[0]]]), [[[1e4]]])


def test_weighted_loss_divides_by_the_weights():
    nll_BLK = [[[1.0, 2.0], [3.0, math.inf]], [[math.nan, 4.0], [5.0, 6.0]]]
    w_BLK = [[[1.0, 2.0], [0.5, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]
    # Heads 2 and 1/2: 2*1 + 1*2 + 1*3 + (1/2)*4 = 9 over 2 + 1 + 1 + 1/2 = 9/2.
    assert oracle.weighted_loss(nll_BLK, w_BLK, [2.0, 0.5]) == (9.0, 4.5, 2.0)


def test_micro_batches_are_summed_and_divided_once():
    # (1 + 9) / (1 + 4) = 2, not the mean of 1/1 and 9/4.
    assert oracle.global_loss([(1.0, 1.0), (9.0, 4.0), (0.0, 0.0)]) == 2.0
    assert oracle.global_loss([]) == oracle.global_loss([(0.0, 0.0)]) == 0.0


def test_critic_total_keeps_two_denominators():
    assert oracle.critic_total(6.0, 3.0, 10.0, 4.0, 0.1) == pytest.approx(2.25)
    assert oracle.critic_total(6.0, 3.0, 0.0, 0.0, 0.1) == 2.0
    assert oracle.critic_total(0.0, 0.0, 10.0, 4.0, 0.1) == 0.25


def test_effective_sample_size_and_entropy():
    mask_BLK = [[[True], [True], [True], [False]]]
    w_BLK = [[[1.0], [3.0], [0.0], [5.0]]]
    assert oracle.effective_sample_size(w_BLK, mask_BLK) == 1.6  # 4^2 / (1 + 9)
    # p = 1/4, 3/4: (1/4) log 4 + (3/4) log(4/3) = log 4 - (3/4) log 3.
    expected = math.log(4) - 0.75 * math.log(3)
    assert oracle.weight_entropy(w_BLK, mask_BLK) == pytest.approx(expected)
    ones = np.ones((1, 4, 1))
    assert oracle.effective_sample_size(ones, mask_BLK) == 3.0
    assert oracle.weight_entropy(ones, mask_BLK) == pytest.approx(math.log(3))
    nothing = np.zeros((1, 4, 1), dtype=bool)
    assert oracle.effective_sample_size(ones, nothing) == 0.0
    assert oracle.weight_entropy(ones, nothing) == 0.0


def test_explained_variance():
    # var(0, 4) = 4; what is left is (-1, 1) with variance 1.
    assert oracle.explained_variance([0.0, 4.0], [1.0, 3.0]) == 0.75
    assert (
        oracle.explained_variance([0.0, 4.0], [10.0, 14.0]) == 1.0
    )  # an offset is free
    assert oracle.explained_variance([0.0, 4.0], [4.0, 0.0]) == -3.0  # (-4, 4): 16 / 4
    assert oracle.explained_variance([2.0, 2.0], [1.0, 3.0]) == 0.0


def test_unigram_entropy():
    # Shares 1/2, 1/4, 1/4: (1/2) log 2 + (1/2) log 4 = (3/2) log 2.
    assert oracle.unigram_entropy([7, 7, 8, 9]) == pytest.approx(1.5 * math.log(2))
    assert oracle.unigram_entropy([5, 5]) == 0.0
    assert oracle.unigram_entropy([]) == 0.0
