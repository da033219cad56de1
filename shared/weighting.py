"""Token weights for multi-token prediction: every formula of the project.

Head `k` at position `l` predicts token `l + 1 + k`. Each algorithm gives every target
token `j` of a document `d` one `score[j]`; a rule turns scores into weights `w[b,l,k]`;
the loss is `sum(head_weight * w * nll) / sum(head_weight * w)`. `T(d)` is the set of
target tokens of `d` (never its first token), `n(d)` their number.

Pure functions of Array API arrays: NumPy, JAX (also under `jax.jit`) and torch arrays
go in, the same kind, dtype and device comes out. Nothing is detached here: weights are
constants of the loss because each backend stops their gradient in its `loss.py`.

Axes: B rows, L positions, K heads, S documents packed in a row. Several documents share
a row; `member_BLS` says which position belongs to which (`document_members`).
"""

import math
from collections.abc import Sequence
from typing import Any

from array_api_compat import array_namespace
from array_api_compat import device as device_of
from jaxtyping import Bool, Float, Int

from shared.axes import (
    check,
    continues,
    document_sum,
    rank_in_document,
    same_shape,
    scope_reductions,
    shift_left,
    shift_to_heads,
    shift_to_tokens,
    to_positions,
    where,
)

Array = Any  # numpy.ndarray, jax.Array, torch.Tensor, ...

# Halvings of log c. The range starts at a few dozen, so that float32 is exhausted at
# half of what float64 takes; every step is a piece of the compiled program.
BISECTION_STEPS = {32: 30, 64: 50}
VARIANCE_EPSILON = 1e-8
SMALLEST_REWARD_DEVIATION = 1e-6


# ---- rules: from scores to weights ---------------------------------------------------


def uniform_weights(
    score_BLK: Float[Array, "B L K"], mask_BLK: Bool[Array, "B L K"]
) -> Float[Array, "B L K"]:
    """Plain multi-token prediction: `w = 1` on every valid target, 0 elsewhere."""
    same_shape(score=score_BLK, mask=mask_BLK)
    xp = array_namespace(score_BLK, mask_BLK)
    return where(xp, mask_BLK, xp.ones_like(score_BLK))


def soft_weights(
    score_BLK: Float[Array, "B L K"],
    mask_BLK: Bool[Array, "B L K"],
    member_BLS: Bool[Array, "B L S"],
    *,
    temperature: float,
    weight_floor: float,
    weight_ceiling: float,
    scope: str,
) -> Float[Array, "B L K"]:
    """Weights that grow with the score, are bounded, and average 1 over a scope.

        w = clip(c * exp(score / temperature), weight_floor, weight_ceiling)

    where `c` is the one number per scope that makes the mean of `w` over its valid
    targets 1, found by bisection in `log c` with a fixed number of steps. Equal scores
    give `w = 1`, and so does `temperature -> infinity`; a constant added to the scores
    of a scope changes nothing. Clipping inside the mean, not after it, keeps one
    outlier from shrinking its whole document.

    Args:
      score_BLK: importance of each head's target; any finite number.
      mask_BLK: True where the target exists.
      member_BLS: which document a position belongs to.
      temperature: score that changes a weight by a factor e before clipping; > 0.
      weight_floor: smallest weight, in [0, 1].
      weight_ceiling: largest weight, >= 1.
      scope: "document" (all valid (l,k) of a document) or "window" (the valid heads of
        one position, so that their sum is the same at every position).

    Returns:
      `[B, L, K]`, exactly 0 where masked.

    Raises:
      ValueError: for shapes that differ or a parameter outside its range.

    Example:
      >>> import numpy as np
      >>> score = np.array([[[2.0], [1.0], [9.0]]])
      >>> mask = np.array([[[True], [True], [False]]])
      >>> member = np.ones((1, 3, 1), bool)
      >>> w = soft_weights(score, mask, member, temperature=1.0, weight_floor=0.05,
      ...                  weight_ceiling=3.0, scope="document")
      >>> w[0, :, 0].round(3).tolist()
      [1.462, 0.538, 0.0]

    References:
      This project's own; Rho-1 (https://arxiv.org/abs/2404.07965) only selects tokens
      and has no continuous weights.
    """
    same_shape(score=score_BLK, mask=mask_BLK)
    check(temperature > 0, "temperature must be > 0", temperature)
    check(0 <= weight_floor <= 1, "weight_floor must be in [0, 1]", weight_floor)
    check(weight_ceiling >= 1, "weight_ceiling must be >= 1", weight_ceiling)
    check(scope in ("document", "window"), "scope must be document or window", scope)
    xp = array_namespace(score_BLK, mask_BLK, member_BLS)
    total, spread, highest = scope_reductions(xp, member_BLS, scope)
    # No weight exceeds the number of targets, so this bound changes no result; it only
    # keeps exp from overflowing under a huge or infinite ceiling.
    weight_ceiling = min(weight_ceiling, max(1, math.prod(score_BLK.shape[1:])))

    scaled_BLK = where(xp, mask_BLK, score_BLK / temperature)
    top = highest(scaled_BLK, mask_BLK)
    count = total(xp.astype(mask_BLK, score_BLK.dtype))
    exponent_BLK = where(xp, mask_BLK, scaled_BLK - spread(top))

    def weights(log_c):
        raised_BLK = xp.clip(exponent_BLK + spread(log_c), max=math.log(weight_ceiling))
        w_BLK = xp.clip(xp.exp(raised_BLK), weight_floor, weight_ceiling)
        return where(xp, mask_BLK, w_BLK)

    # With the largest exponent at 0, log c = 0 makes every weight at most 1 and
    # log c = the range of the exponents makes every weight at least 1.
    lower = xp.zeros_like(top)
    upper = where(xp, count > 0, top + highest(-scaled_BLK, mask_BLK))
    for _ in range(BISECTION_STEPS.get(xp.finfo(score_BLK.dtype).bits, 30)):
        middle = (lower + upper) / 2
        too_heavy = total(weights(middle)) > count
        lower = xp.where(too_heavy, lower, middle)
        upper = xp.where(too_heavy, middle, upper)
    return weights((lower + upper) / 2)


def skip_weights(
    score_BL: Float[Array, "B L"],
    target_BL: Bool[Array, "B L"],
    mask_BLK: Bool[Array, "B L K"],
    member_BLS: Bool[Array, "B L S"],
    *,
    skip_fraction: float,
) -> Float[Array, "B L K"]:
    """Drops the lowest-scored share of each document's target tokens, for all heads.

        drop = (n * round(10000 * skip_fraction)) // 10000
        w[b,l,k] = 1 if the target l+1+k is kept, else 0

    Tokens are ranked once, not per head: far heads are worse at every token, so a rank
    over heads would mostly drop near ones. Of equal scores the earlier token goes
    first. `skip_fraction = 0` is `uniform`.

    Raises:
      ValueError: for shapes that differ or `skip_fraction` outside [0, 1).

    Example:
      >>> import numpy as np
      >>> target = np.array([[False, True, True, True]])
      >>> mask = shift_to_heads(target, num_heads=1)
      >>> w = skip_weights(np.array([[0.0, 3.0, 1.0, 2.0]]), target, mask,
      ...                  np.ones((1, 4, 1), bool), skip_fraction=0.34)
      >>> w[0, :, 0].tolist()
      [1.0, 0.0, 1.0, 0.0]

    References:
      Lin et al., "Rho-1", 2024, https://arxiv.org/abs/2404.07965, eq. 5, which ranks
      over the batch; ranking inside the document keeps packing out of the result.
    """
    same_shape(score=score_BL, target=target_BL)
    check(0 <= skip_fraction < 1, "skip_fraction must be in [0, 1)", skip_fraction)
    xp = array_namespace(score_BL, target_BL, mask_BLK, member_BLS)
    rank_BL = rank_in_document(xp, score_BL, target_BL, member_BLS)
    count_BS = document_sum(xp.astype(target_BL, rank_BL.dtype), member_BLS)
    drop_BS = (count_BS * round(10000 * skip_fraction)) // 10000
    kept_BL = target_BL & (rank_BL >= to_positions(drop_BS, member_BLS))
    kept_BLK = mask_BLK & shift_to_heads(kept_BL, num_heads=mask_BLK.shape[2])
    return xp.astype(kept_BLK, score_BL.dtype)


# ---- scores --------------------------------------------------------------------------


def excess_loss(
    nll_BL: Float[Array, "B L"],
    ref_nll_BL: Float[Array, "B L"],
    target_BL: Bool[Array, "B L"],
    *,
    excess: str = "signed",
    excess_floor: float = 0.0,
) -> Float[Array, "B L"]:
    """How far the model is behind a reference model on each target token, in nats.

        score[j] = nll(j) - ref_nll(j);  |score| < excess_floor counts as 0

    Both losses are of token `j` given its own true prefix (head 0). `absolute` takes
    `|nll - ref_nll|`, which also raises tokens that the model already knows better.

    Raises:
      ValueError: for shapes that differ or an unknown `excess`.

    References:
      Lin et al., "Rho-1", 2024, https://arxiv.org/abs/2404.07965, eq. 3 (signed).
    """
    same_shape(nll=nll_BL, ref_nll=ref_nll_BL, target=target_BL)
    check(excess in ("signed", "absolute"), "excess must be signed or absolute", excess)
    xp = array_namespace(nll_BL, ref_nll_BL, target_BL)
    excess_BL = nll_BL - ref_nll_BL
    if excess == "absolute":
        excess_BL = xp.abs(excess_BL)
    return where(xp, target_BL & (xp.abs(excess_BL) >= excess_floor), excess_BL)


def token_rewards(
    reward_BL: Float[Array, "B L"],
    target_BL: Bool[Array, "B L"],
    member_BLS: Bool[Array, "B L S"],
    *,
    reward: str,
) -> Float[Array, "B L"]:
    """Spreads a document's reward `R` over its targets.

    `uniform`: `R / n` on each target; `last`: `R` on the last one.

    Args:
      reward_BL: R(d) on every position of d.
      reward: "uniform" or "last".
    """
    check(reward in ("uniform", "last"), "reward must be uniform or last", reward)
    xp = array_namespace(reward_BL, target_BL, member_BLS)
    if reward == "last":
        return where(xp, target_BL & ~continues(target_BL), reward_BL)
    count_BS = document_sum(xp.astype(target_BL, reward_BL.dtype), member_BLS)
    count_BL = to_positions(count_BS, member_BLS)
    return where(xp, target_BL, reward_BL / xp.clip(count_BL, min=1))


def td_errors(
    reward_BL: Float[Array, "B L"],
    value_BL: Float[Array, "B L"],
    target_BL: Bool[Array, "B L"],
    *,
    discount: float,
) -> Float[Array, "B L"]:
    """Temporal-difference error of each target token.

        td_error[j] = reward[j] + discount * value[j] * (j is not the last) - value[j-1]

    `value[l]` is what the value head says at position `l`, having read tokens 0..l.
    """
    same_shape(reward=reward_BL, value=value_BL, target=target_BL)
    xp = array_namespace(reward_BL, value_BL, target_BL)
    next_value_BL = where(xp, continues(target_BL), value_BL)
    td_BL = reward_BL + discount * next_value_BL - shift_to_tokens(value_BL)
    return where(xp, target_BL, td_BL)


def advantages(
    td_error_BL: Float[Array, "B L"],
    target_BL: Bool[Array, "B L"],
    *,
    discount: float,
    gae_lambda: float,
) -> Float[Array, "B L"]:
    """Generalised advantage estimation over the targets of each document.

        advantage[j] = td_error[j] + discount * gae_lambda * advantage[j+1]

    The recursion runs backwards by doubling: after step i each entry has summed the
    next 2^i terms, so L positions take log2(L) shifts. `gae_lambda = 0` gives the TD
    errors; 1 gives the discounted return minus the value.

    References:
      Schulman et al., 2016, https://arxiv.org/abs/1506.02438, eq. 16.
    """
    same_shape(td_error=td_error_BL, target=target_BL)
    xp = array_namespace(td_error_BL, target_BL)
    advantage_BL = where(xp, target_BL, td_error_BL)
    factor_BL = (
        discount * gae_lambda * xp.astype(continues(target_BL), td_error_BL.dtype)
    )
    shift = 1
    while shift < td_error_BL.shape[1]:
        advantage_BL = advantage_BL + factor_BL * shift_left(advantage_BL, shift)
        factor_BL = factor_BL * shift_left(factor_BL, shift)
        shift *= 2
    return advantage_BL


def returns(
    advantage_BL: Float[Array, "B L"],
    value_BL: Float[Array, "B L"],
    target_BL: Bool[Array, "B L"],
) -> Float[Array, "B L"]:
    """What the value should have been: `return[j-1] = advantage[j] + value[j-1]`."""
    xp = array_namespace(advantage_BL, value_BL, target_BL)
    return where(xp, read_positions(target_BL), shift_left(advantage_BL, 1) + value_BL)


def read_positions(target_BL: Bool[Array, "B L"]) -> Bool[Array, "B L"]:
    """Positions `j - 1` whose value is compared with a return: `j` is a target."""
    return shift_left(target_BL, 1)


def value_loss(
    value_BL: Float[Array, "B L"],
    return_BL: Float[Array, "B L"],
    target_BL: Bool[Array, "B L"],
) -> tuple[Array, Array]:
    """`(sum, count)` of `(value[j-1] - return[j-1])^2` over the targets `j`."""
    return squared_errors(value_BL, return_BL, read_positions(target_BL))


def squared_errors(value: Array, return_: Array, counts: Array) -> tuple[Array, Array]:
    """`(sum, count)` of `(value - return)^2` where `counts` is True; any one shape."""
    xp = array_namespace(value, return_)
    error = where(xp, counts, value - return_)
    return xp.sum(error**2), xp.sum(xp.astype(counts, value.dtype))


def z_score(
    x_BL: Float[Array, "B L"],
    target_BL: Bool[Array, "B L"],
    member_BLS: Bool[Array, "B L S"],
) -> Float[Array, "B L"]:
    """`(x - mean) / sqrt(var + 1e-8)` over the targets of each document, ddof 0.

    A document with one target (or none) gets 0.
    """
    xp = array_namespace(x_BL, target_BL, member_BLS)
    count_BS = document_sum(xp.astype(target_BL, x_BL.dtype), member_BLS)
    divisor_BS = xp.clip(count_BS, min=1)
    mean_BS = document_sum(where(xp, target_BL, x_BL), member_BLS) / divisor_BS
    centred_BL = where(xp, target_BL, x_BL - to_positions(mean_BS, member_BLS))
    var_BL = to_positions(
        document_sum(centred_BL**2, member_BLS) / divisor_BS, member_BLS
    )
    several_BL = to_positions(count_BS, member_BLS) > 1
    return where(xp, several_BL, centred_BL / xp.sqrt(var_BL + VARIANCE_EPSILON))


def pseudo_reward(ref_nll_T: Array, target_T: Array) -> Array:
    """Reward of a document nobody rated: `-mean over T(d) of ref_nll`; 0 if `n = 0`."""
    xp = array_namespace(ref_nll_T, target_T)
    count = xp.sum(xp.astype(target_T, ref_nll_T.dtype))
    return -xp.sum(where(xp, target_T, ref_nll_T)) / xp.clip(count, min=1)


def reward_moments(reward_N: Float[Array, " N"]) -> tuple[Array, Array]:
    """Mean and standard deviation (ddof 0) of the training split's rewards."""
    xp = array_namespace(reward_N)
    return xp.mean(reward_N), xp.std(reward_N)


def whiten(reward_N: Float[Array, " N"], mean: Any, deviation: Any) -> Array:
    """`(R - mean) / deviation`; all 0 if the deviation is under 1e-6."""
    xp = array_namespace(reward_N)
    mean_N, deviation_N = (
        xp.asarray(x, dtype=reward_N.dtype, device=device_of(reward_N))
        * xp.ones_like(reward_N)
        for x in (mean, deviation)
    )
    flat_N = deviation_N < SMALLEST_REWARD_DEVIATION
    safe_N = xp.where(flat_N, xp.ones_like(reward_N), deviation_N)
    return where(xp, ~flat_N, (reward_N - mean_N) / safe_N)


def shuffle_scores(score_BL: Array, permutation_BL: Int[Array, "B L"]) -> Array:
    """Control: the same scores on other targets, `y[b,j] = score[b, permutation[b,j]]`.

    The permutation stays within `T(d)` and is the identity elsewhere.
    """
    xp = array_namespace(score_BL, permutation_BL)
    # torch gathers by its own index type (int64) only.
    index = xp.__array_namespace_info__().default_dtypes()["indexing"]
    return xp.take_along_axis(score_BL, xp.astype(permutation_BL, index), axis=1)


def random_scores(noise_BL: Array, target_BL: Bool[Array, "B L"]) -> Array:
    """Control: a standard normal number in place of every target's score."""
    xp = array_namespace(noise_BL, target_BL)
    return where(xp, target_BL, noise_BL)


# ---- sums ----------------------------------------------------------------------------


def weighted_sum(
    nll_BLK: Float[Array, "B L K"],
    w_BLK: Float[Array, "B L K"],
    *,
    head_weight: Sequence[float],
) -> tuple[Array, Array]:
    """`(sum(head_weight[k] * w * nll), sum(head_weight[k] * w))` of a micro-batch.

    Micro-batches and devices add both numbers up; `ratio` divides once at the end. An
    nll at a weight of 0 never enters, even if it is not finite.

    Example:
      >>> import numpy as np
      >>> nll = np.array([[[2.0, 4.0]]])
      >>> w = np.array([[[1.0, 0.5]]])
      >>> [float(x) for x in weighted_sum(nll, w, head_weight=(1.0, 2.0))]
      [6.0, 2.0]
    """
    same_shape(nll=nll_BLK, w=w_BLK)
    check(len(head_weight) == nll_BLK.shape[2], "one head_weight per head", head_weight)
    xp = array_namespace(nll_BLK, w_BLK)
    factor_K = xp.asarray(
        list(head_weight), dtype=nll_BLK.dtype, device=device_of(nll_BLK)
    )
    full_BLK = w_BLK * factor_K[None, None, :]
    return xp.sum(full_BLK * where(xp, full_BLK > 0, nll_BLK)), xp.sum(full_BLK)


def ratio(total: Array, weight: Array) -> Array:
    """`total / weight`, and 0 where the weight is 0."""
    xp = array_namespace(total, weight)
    safe = xp.where(weight > 0, weight, xp.ones_like(weight))
    return xp.where(weight > 0, total / safe, xp.zeros_like(weight))


def weight_sums(w_BLK: Array, mask_BLK: Bool[Array, "B L K"]) -> dict[str, Array]:
    """What the statistics of the weights need, as sums that add over micro-batches."""
    xp = array_namespace(w_BLK, mask_BLK)
    w_BLK = where(xp, mask_BLK, w_BLK)
    log_w_BLK = xp.log(xp.where(w_BLK > 0, w_BLK, xp.ones_like(w_BLK)))
    return {
        "count": xp.sum(xp.astype(mask_BLK, w_BLK.dtype)),
        "kept": xp.sum(xp.astype(w_BLK > 0, w_BLK.dtype)),
        "w": xp.sum(w_BLK),
        "w_squared": xp.sum(w_BLK**2),
        "w_log_w": xp.sum(w_BLK * log_w_BLK),
    }


def effective_sample_size(sums: dict[str, Array]) -> Array:
    """`(sum w)^2 / sum w^2`: how many equally weighted targets would weigh as much."""
    return ratio(sums["w"] ** 2, sums["w_squared"])


def weight_entropy(sums: dict[str, Array]) -> Array:
    """`-sum p log p` with `p = w / sum w`, in nats; `log n` if all are equal."""
    xp = array_namespace(sums["w"])
    positive = sums["w"] > 0
    safe = xp.where(positive, sums["w"], xp.ones_like(sums["w"]))
    entropy = xp.log(safe) - sums["w_log_w"] / safe
    return xp.where(positive, entropy, xp.zeros_like(entropy))


def explained_variance(return_N: Array, value_N: Array, mask_N: Array) -> Array:
    """`1 - var(return - value) / var(return)` where the mask is True, ddof 0.

    1 is a perfect critic; 0 is no better than a constant; 0 also if returns are equal.
    """
    xp = array_namespace(return_N, value_N, mask_N)
    count = xp.clip(xp.sum(xp.astype(mask_N, return_N.dtype)), min=1)

    def variance(x_N):
        mean = xp.sum(where(xp, mask_N, x_N)) / count
        # Takes the rounding of the mean out, so that equal numbers vary by exactly 0.
        mean = mean + xp.sum(where(xp, mask_N, x_N - mean)) / count
        return xp.sum(where(xp, mask_N, x_N - mean) ** 2) / count

    spread = variance(return_N)
    return xp.where(
        spread > 0, 1 - ratio(variance(return_N - value_N), spread), 0 * spread
    )
