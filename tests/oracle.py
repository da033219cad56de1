"""The mathematics of WMTP as plain loops: what every fast formula is held against.

Written from section 2 of the design alone; it shares no code with the package. Every
value is a Python float (float64), every sum a loop, so that each function can be
checked against its formula by reading. Arrays or nested lists go in; NumPy arrays
(used as containers only) or Python floats come out.

Axes: B rows, L positions, K heads, V vocabulary. `document_BL` numbers the documents
of a row from 1, 0 is padding; `target_BL[b, j]` says that token j is in T(d). Per-token
results (`score_BL`, `reward_BL`, ...) are indexed by the target token j and are 0 where
j is no target; `value_BL` and `return_BL` are indexed by the position that is read.
"""

# ruff: noqa: E741 (l is a position, as in the design)

import math

import numpy as np


def _floats(x):
    return np.asarray(x, dtype=np.float64).tolist()


def _integers(x):
    return np.asarray(x).astype(np.int64).tolist()


def _flags(x):
    return np.asarray(x, dtype=bool).tolist()


def _documents(target_BL, document_BL):
    """(b, d, T(d)) of every document; T(d) lists its target positions in order."""
    found = []
    for b, (flags, numbers) in enumerate(
        zip(_flags(target_BL), _integers(document_BL), strict=True)
    ):
        for d in sorted(set(numbers) - {0}):
            in_d = [j for j in range(len(numbers)) if numbers[j] == d]
            found.append((b, d, [j for j in in_d if flags[j]]))
    return found


# Targets


def shift_to_heads(x_BL, num_heads):
    """out[b,l,k] = x[b, l+1+k], 0 past the end of the row."""
    rows, length = np.shape(x_BL)
    x = _floats(x_BL)
    out_BLK = np.zeros((rows, length, num_heads))
    for b in range(rows):
        for l in range(length):
            for k in range(num_heads):
                if l + 1 + k < length:
                    out_BLK[b, l, k] = x[b][l + 1 + k]
    return out_BLK


def targets_and_mask(tokens_BL, document_BL, target_BL, num_heads):
    """target = tokens[b, l+1+k] (0 past the end); mask: l in d and l+1+k in T(d)."""
    rows, length = np.shape(tokens_BL)
    document = _integers(document_BL)
    targets_BLK = shift_to_heads(tokens_BL, num_heads).astype(np.int64)
    mask_BLK = np.zeros((rows, length, num_heads), dtype=bool)
    for b, d, targets in _documents(target_BL, document_BL):
        for l in range(length):
            for k in range(num_heads):
                mask_BLK[b, l, k] |= document[b][l] == d and l + 1 + k in targets
    return targets_BLK, mask_BLK


# Rules: scores to weights


def uniform_weights(mask_BLK):
    """1 where the mask is True, else 0."""
    mask = _flags(mask_BLK)
    w_BLK = np.zeros(np.shape(mask_BLK))
    for b, l, k in np.ndindex(*np.shape(mask_BLK)):
        w_BLK[b, l, k] = 1.0 if mask[b][l][k] else 0.0
    return w_BLK


def _soft_weights_of_scope(scores, temperature, floor, ceiling):
    """clip(c exp(score / temperature), floor, ceiling) with c such that the mean is 1.

    z = (score - max) / temperature <= 0 only renames c. At log c = 0 every c exp(z) is
    at most 1, so the mean is too; at log c = -min z every one is at least 1: c lies
    between. c may not be unique (everything clipped), but the weights are.
    """
    count = len(scores)
    # Weights are >= 0 with mean 1, so none exceeds their number: nothing overflows.
    ceiling = min(ceiling, float(count))

    def clipped(log_w):
        return ceiling if log_w >= math.log(ceiling) else max(floor, math.exp(log_w))

    def weights(log_c):
        return [clipped(log_c + x) for x in z]

    z = [(score - max(scores)) / temperature for score in scores]
    low, high = 0.0, -min(z)
    for _ in range(200):
        middle = low + (high - low) / 2
        if math.fsum(weights(middle)) < count:
            low = middle
        else:
            high = middle
    return weights(high)


def soft_weights(
    score_BLK,
    mask_BLK,
    document_BL,
    temperature,
    weight_floor,
    weight_ceiling,
    scope,
):
    """Soft rule; scope `document`: all valid (l,k) of it, `window`: those of one l."""
    if scope not in ("document", "window"):
        raise ValueError(f"scope must be 'document' or 'window', got {scope!r}")
    score, mask = _floats(score_BLK), _flags(mask_BLK)
    document = _integers(document_BL)
    scopes = {}
    for b, l, k in np.ndindex(*np.shape(mask_BLK)):
        if mask[b][l][k]:
            name = (b, document[b][l]) if scope == "document" else (b, l)
            scopes.setdefault(name, []).append((b, l, k))
    w_BLK = np.zeros(np.shape(mask_BLK))
    for members in scopes.values():
        weights = _soft_weights_of_scope(
            [score[b][l][k] for b, l, k in members],
            float(temperature),
            float(weight_floor),
            float(weight_ceiling),
        )
        for index, weight in zip(members, weights, strict=True):
            w_BLK[index] = weight
    return w_BLK


def skip_weights(score_BL, target_BL, document_BL, num_heads, skip_fraction):
    """w[b,l,k] = 1 if l+1+k is a kept target of the document of l, else 0."""
    rows, length = np.shape(score_BL)
    score, document = _floats(score_BL), _integers(document_BL)
    w_BLK = np.zeros((rows, length, num_heads))
    for b, d, targets in _documents(target_BL, document_BL):
        drop = (len(targets) * round(10000 * skip_fraction)) // 10000
        lowest_first = sorted((score[b][j], j) for j in targets)  # ties: earlier j
        for _, j in lowest_first[drop:]:
            for k in range(num_heads):
                if j - 1 - k >= 0 and document[b][j - 1 - k] == d:
                    w_BLK[b, j - 1 - k, k] = 1.0
    return w_BLK


# Scores


def excess_loss(nll_BL, ref_nll_BL, target_BL, excess, excess_floor):
    """nll(j) - ref_nll(j), or its size; sizes below excess_floor count as 0."""
    if excess not in ("signed", "absolute"):
        raise ValueError(f"excess must be 'signed' or 'absolute', got {excess!r}")
    nll, ref_nll, target = _floats(nll_BL), _floats(ref_nll_BL), _flags(target_BL)
    score_BL = np.zeros(np.shape(nll_BL))
    for b, j in np.ndindex(*np.shape(nll_BL)):
        if target[b][j]:
            difference = nll[b][j] - ref_nll[b][j]
            if abs(difference) < excess_floor:
                difference = 0.0
            score_BL[b, j] = abs(difference) if excess == "absolute" else difference
    return score_BL


def token_rewards(reward_per_document, target_BL, document_BL, kind):
    """R/n on each target (`uniform`) or R on the last (`last`); R = reward[b][d].

    `reward_per_document[b]` is a dict by document number, or a sequence whose entry 0
    (padding) is not read.
    """
    if kind not in ("uniform", "last"):
        raise ValueError(f"kind must be 'uniform' or 'last', got {kind!r}")
    reward_BL = np.zeros(np.shape(target_BL))
    for b, d, targets in _documents(target_BL, document_BL):
        for j in targets:
            total = float(reward_per_document[b][d])
            if kind == "uniform":
                reward_BL[b, j] = total / len(targets)
            elif j == targets[-1]:
                reward_BL[b, j] = total
    return reward_BL


def td_errors(reward_BL, value_BL, target_BL, document_BL, discount):
    """reward[j] + discount value[j] (j is not the last of T(d)) - value[j-1]."""
    reward, value = _floats(reward_BL), _floats(value_BL)
    td_error_BL = np.zeros(np.shape(target_BL))
    for b, _, targets in _documents(target_BL, document_BL):
        for j in targets:
            next_value = value[b][j] if j != targets[-1] else 0.0
            td_error_BL[b, j] = reward[b][j] + discount * next_value - value[b][j - 1]
    return td_error_BL


def advantages(td_error_BL, target_BL, document_BL, discount, gae_lambda):
    """td_error[j] + discount gae_lambda advantage[j+1], 0 if j+1 is not in T(d)."""
    td_error = _floats(td_error_BL)
    advantage_BL = np.zeros(np.shape(target_BL))
    for b, _, targets in _documents(target_BL, document_BL):
        advantage = {}
        for j in reversed(targets):
            following = advantage.get(j + 1, 0.0)
            advantage[j] = td_error[b][j] + discount * gae_lambda * following
            advantage_BL[b, j] = advantage[j]
    return advantage_BL


def returns(advantage_BL, value_BL, target_BL):
    """return[j-1] = advantage[j] + value[j-1] for targets j, 0 elsewhere."""
    advantage, value = _floats(advantage_BL), _floats(value_BL)
    target = _flags(target_BL)
    return_BL = np.zeros(np.shape(target_BL))
    for b, j in np.ndindex(*np.shape(target_BL)):
        if target[b][j]:
            return_BL[b, j - 1] = advantage[b][j] + value[b][j - 1]
    return return_BL


def value_loss(value_BL, return_BL, target_BL):
    """(sum over targets j of (value[j-1] - return[j-1])^2, number of targets)."""
    value, goal, target = _floats(value_BL), _floats(return_BL), _flags(target_BL)
    total, count = 0.0, 0
    for b, j in np.ndindex(*np.shape(target_BL)):
        if target[b][j]:
            total += (value[b][j - 1] - goal[b][j - 1]) ** 2
            count += 1
    return total, float(count)


def _moments(values):
    """Mean and variance (ddof 0); (0, 0) of nothing."""
    if not values:
        return 0.0, 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((x - mean) ** 2 for x in values) / len(values)


def z_score(x_BL, target_BL, document_BL):
    """(x - mean) / sqrt(var + 1e-8) over T(d); 0 where n <= 1."""
    x = _floats(x_BL)
    z_BL = np.zeros(np.shape(x_BL))
    for b, _, targets in _documents(target_BL, document_BL):
        mean, variance = _moments([x[b][j] for j in targets])
        for j in targets:
            if len(targets) > 1:
                z_BL[b, j] = (x[b][j] - mean) / math.sqrt(variance + 1e-8)
    return z_BL


def reward_moments(rewards):
    """Mean and standard deviation (ddof 0) of the rewards of the train split."""
    mean, variance = _moments(_floats(rewards))
    return mean, math.sqrt(variance)


def whiten(rewards, mean, std):
    """(R - mean) / std for each reward; all 0 if std < 1e-6."""
    if std < 1e-6:
        return np.zeros(len(rewards))
    return np.array([(reward - mean) / std for reward in _floats(rewards)])


def pseudo_reward(ref_nll, target):
    """Minus the mean of ref_nll over T(d) of one document; 0 if T(d) is empty."""
    chosen = [x for x, flag in zip(_floats(ref_nll), target, strict=True) if flag]
    return -math.fsum(chosen) / len(chosen) if chosen else 0.0


def shuffle_control(score_BL, permutation_BL):
    """out[b,j] = score[b, permutation[b,j]]; the permutation keeps to T(d)."""
    score, permutation = _floats(score_BL), _integers(permutation_BL)
    out_BL = np.zeros(np.shape(score_BL))
    for b, j in np.ndindex(*np.shape(score_BL)):
        out_BL[b, j] = score[b][permutation[b][j]]
    return out_BL


def random_control(noise_BL, target_BL):
    """The noise of each target, 0 elsewhere."""
    noise, target = _floats(noise_BL), _flags(target_BL)
    out_BL = np.zeros(np.shape(noise_BL))
    for b, j in np.ndindex(*np.shape(noise_BL)):
        out_BL[b, j] = noise[b][j] if target[b][j] else 0.0
    return out_BL


# Loss


def nll_from_logits(logits_BLKV, targets_BLK):
    """log sum_v exp(logit[v]) - logit[target], in nats."""
    nll_BLK = np.zeros(np.shape(targets_BLK))
    for index in np.ndindex(*np.shape(targets_BLK)):
        logits = _floats(np.asarray(logits_BLKV)[index])
        target = int(np.asarray(targets_BLK)[index])
        top = max(logits)
        log_sum = math.log(math.fsum(math.exp(x - top) for x in logits))
        nll_BLK[index] = (top - logits[target]) + log_sum
    return nll_BLK


def _quotient(total, weight):
    """A zero denominator gives 0, never NaN."""
    return total / weight if weight != 0 else 0.0


def weighted_loss(nll_BLK, w_BLK, head_weight_K):
    """(sum of head_weight w nll, sum of head_weight w, their quotient).

    A term of weight 0 is left out, so its nll may be anything, inf and NaN included.
    """
    nll, w, head_weight = _floats(nll_BLK), _floats(w_BLK), _floats(head_weight_K)
    terms, weights = [], []
    for b, l, k in np.ndindex(*np.shape(w_BLK)):
        weight = head_weight[k] * w[b][l][k]
        if weight != 0:
            terms.append(weight * nll[b][l][k])
            weights.append(weight)
    total, weight = math.fsum(terms), math.fsum(weights)
    return total, weight, _quotient(total, weight)


def global_loss(pairs):
    """The loss of many (sum, weight): summed first, divided once."""
    total, weight = 0.0, 0.0
    for one_total, one_weight in pairs:
        total += one_total
        weight += one_weight
    return _quotient(total, weight)


def critic_total(total, weight, value_sum, value_count, coef):
    """L + coef * value loss, each divided by its own denominator."""
    return _quotient(total, weight) + coef * _quotient(value_sum, value_count)


# Reports


def _valid_weights(w_BLK, mask_BLK):
    w, mask = np.asarray(w_BLK), np.asarray(mask_BLK)
    return [float(w[index]) for index in np.ndindex(*w.shape) if mask[index]]


def effective_sample_size(w_BLK, mask_BLK):
    """(sum w)^2 / sum w^2 over the mask; 0 without any weight."""
    w = _valid_weights(w_BLK, mask_BLK)
    return _quotient(math.fsum(w) ** 2, math.fsum(x * x for x in w))


def _entropy(amounts):
    """-sum p log p in nats, p = amount / total; amounts of 0 add nothing."""
    total = math.fsum(amounts)
    shares = [amount / total for amount in amounts if amount > 0]
    return math.fsum(-p * math.log(p) for p in shares)


def weight_entropy(w_BLK, mask_BLK):
    """Entropy of p = w / sum w over the mask, in nats; 0 without any weight."""
    return _entropy(_valid_weights(w_BLK, mask_BLK))


def explained_variance(returns, values):
    """1 - var(return - value) / var(return) over flat lists (targets only), ddof 0."""
    goal, value = _floats(returns), _floats(values)
    _, variance = _moments(goal)
    _, unexplained = _moments([r - v for r, v in zip(goal, value, strict=True)])
    return 1.0 - unexplained / variance if variance != 0 else 0.0


def unigram_entropy(tokens):
    """Entropy of the token frequencies of a list, in nats; 0 of nothing."""
    counts = {}
    for token in _integers(tokens):
        counts[token] = counts.get(token, 0) + 1
    return _entropy(list(counts.values()))
