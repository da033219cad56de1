"""Each formula of the weights beside its oracle; examples and libraries to try it on.

`tests/test_weighting.py` runs the table on every array library, on a few fixed shapes;
`tests/test_weighting_properties.py` on random ones.
"""

import contextlib
from types import SimpleNamespace

import array_api_strict as strict
import jax
import numpy as np
import pytest

from shared import axes, weighting
from tests import oracle

SCORES = {
    "normal": lambda number: number,
    "ties": np.round,  # whole numbers, 0.0 and -0.0 among them
    "equal": lambda number: np.full_like(number, 3.25),
    "huge": lambda number: 1e4 * number,
}
SETTINGS = SimpleNamespace(
    temperature=0.7,
    weight_floor=0.05,
    weight_ceiling=3.0,
    skip_fraction=0.3,
    discount=0.9,
    gae_lambda=0.8,
    excess_floor=0.2,
    head_weight=(1.0, 0.5, 0.0, 2.0),
)


def example(rows, *, num_heads, length, scores="normal", seed=0, spare=0):
    """NumPy arrays for every formula, with garbage wherever nothing may be read.

    `rows` lists each row's documents as (padding before it, tokens, targets); T(d) are
    the last tokens of d. Numbers are exact in float32: the oracle sees the same ones.
    """
    rng = np.random.default_rng(seed)

    def number(*shape):
        drawn = SCORES[scores](rng.normal(size=shape))
        return drawn.astype(np.float32).astype(np.float64)

    batch = (len(rows), length)
    document_BL, target_BL = np.zeros(batch, np.int32), np.zeros(batch, bool)
    permutation_BL = np.tile(np.arange(length, dtype=np.int32), (len(rows), 1))
    reward_BL, rewards = np.zeros(batch), [{} for _ in rows]
    for b, documents in enumerate(rows):
        end = 0
        for d, (padding, tokens, targets) in enumerate(documents, 1):
            start, end = end + padding, end + padding + tokens
            document_BL[b, start:end] = d
            target_BL[b, end - targets : end] = True
            permutation_BL[b, end - targets : end] = end - 1 - rng.permutation(targets)
            reward_BL[b, start:end] = rewards[b][d] = number(1)[0]
    _, mask_BLK = oracle.targets_and_mask(
        document_BL, document_BL, target_BL, num_heads
    )
    num_documents = max(map(len, rows)) + spare
    w_BLK = np.where(mask_BLK, np.maximum(number(*mask_BLK.shape), 0), 0)
    never_BLK = np.where(rng.random(w_BLK.shape) < 0.5, np.inf, np.nan)
    return SimpleNamespace(
        rewards=rewards,
        document_BL=document_BL,
        target_BL=target_BL,
        member_BLS=document_BL[:, :, None] == np.arange(1, num_documents + 1),
        mask_BLK=mask_BLK,
        permutation_BL=permutation_BL,
        score_BL=number(*batch),
        score_BLK=number(*mask_BLK.shape),
        nll_BL=number(*batch),
        ref_nll_BL=number(*batch),
        value_BL=number(*batch),
        reward_BL=reward_BL,
        w_BLK=w_BLK,
        nll_BLK=np.where(w_BLK > 0, number(*w_BLK.shape), never_BLK),
        reward_N=number(7),
        value_N=number(7),
        mask_N=rng.random(7) < rng.choice([0.0, 0.7]),
    )


def by_index(s, *names):
    return {name: getattr(s, name) for name in names}


def soft(scope):
    names = ("temperature", "weight_floor", "weight_ceiling")
    return (
        lambda a, s: weighting.soft_weights(
            a.score_BLK, a.mask_BLK, a.member_BLS, scope=scope, **by_index(s, *names)
        ),
        lambda a, s: oracle.soft_weights(
            a.score_BLK, a.mask_BLK, a.document_BL, *by_index(s, *names).values(), scope
        ),
    )


def excess(kind):
    return (
        lambda a, s: weighting.excess_loss(
            a.nll_BL,
            a.ref_nll_BL,
            a.target_BL,
            excess=kind,
            excess_floor=s.excess_floor,
        ),
        lambda a, s: oracle.excess_loss(
            a.nll_BL, a.ref_nll_BL, a.target_BL, kind, s.excess_floor
        ),
    )


def token_rewards(kind):
    return (
        lambda a, s: weighting.token_rewards(
            a.reward_BL, a.target_BL, a.member_BLS, reward=kind
        ),
        lambda a, s: oracle.token_rewards(a.rewards, a.target_BL, a.document_BL, kind),
    )


def weighted_sum(a, s):
    head_weight = s.head_weight[: a.w_BLK.shape[2]]
    pair = weighting.weighted_sum(a.nll_BLK, a.w_BLK, head_weight=head_weight)
    return *pair, weighting.ratio(*pair)


def of_chosen(x_N, mask_N):
    return [x for x, chosen in zip(x_N, mask_N, strict=True) if chosen]


# name: (ours, the oracle's), both of an example's arrays and the settings
FORMULAS = {
    "shift_to_heads": (
        lambda a, s: axes.shift_to_heads(a.score_BL, num_heads=a.mask_BLK.shape[2]),
        lambda a, s: oracle.shift_to_heads(a.score_BL, a.mask_BLK.shape[2]),
    ),
    "uniform_weights": (
        lambda a, s: weighting.uniform_weights(a.score_BLK, a.mask_BLK),
        lambda a, s: oracle.uniform_weights(a.mask_BLK),
    ),
    "soft_weights document": soft("document"),
    "soft_weights window": soft("window"),
    "skip_weights": (
        lambda a, s: weighting.skip_weights(
            a.score_BL,
            a.target_BL,
            a.mask_BLK,
            a.member_BLS,
            skip_fraction=s.skip_fraction,
        ),
        lambda a, s: oracle.skip_weights(
            a.score_BL, a.target_BL, a.document_BL, a.mask_BLK.shape[2], s.skip_fraction
        ),
    ),
    "excess_loss signed": excess("signed"),
    "excess_loss absolute": excess("absolute"),
    "token_rewards uniform": token_rewards("uniform"),
    "token_rewards last": token_rewards("last"),
    "td_errors": (
        lambda a, s: weighting.td_errors(
            a.nll_BL, a.value_BL, a.target_BL, discount=s.discount
        ),
        lambda a, s: oracle.td_errors(
            a.nll_BL, a.value_BL, a.target_BL, a.document_BL, s.discount
        ),
    ),
    "advantages": (
        lambda a, s: weighting.advantages(
            a.nll_BL, a.target_BL, **by_index(s, "discount", "gae_lambda")
        ),
        lambda a, s: oracle.advantages(
            a.nll_BL, a.target_BL, a.document_BL, s.discount, s.gae_lambda
        ),
    ),
    "returns": (
        lambda a, s: weighting.returns(a.nll_BL, a.value_BL, a.target_BL),
        lambda a, s: oracle.returns(a.nll_BL, a.value_BL, a.target_BL),
    ),
    "value_loss": (
        lambda a, s: weighting.value_loss(a.value_BL, a.nll_BL, a.target_BL),
        lambda a, s: oracle.value_loss(a.value_BL, a.nll_BL, a.target_BL),
    ),
    "z_score": (
        lambda a, s: weighting.z_score(a.nll_BL, a.target_BL, a.member_BLS),
        lambda a, s: oracle.z_score(a.nll_BL, a.target_BL, a.document_BL),
    ),
    "pseudo_reward": (
        lambda a, s: weighting.pseudo_reward(a.ref_nll_BL[0, :], a.target_BL[0, :]),
        lambda a, s: oracle.pseudo_reward(a.ref_nll_BL[0], a.target_BL[0]),
    ),
    "reward_moments": (
        lambda a, s: weighting.reward_moments(a.reward_N),
        lambda a, s: oracle.reward_moments(a.reward_N),
    ),
    "whiten": (
        lambda a, s: weighting.whiten(a.value_N, *weighting.reward_moments(a.reward_N)),
        lambda a, s: oracle.whiten(a.value_N, *oracle.reward_moments(a.reward_N)),
    ),
    "shuffle_scores": (
        lambda a, s: weighting.shuffle_scores(a.score_BL, a.permutation_BL),
        lambda a, s: oracle.shuffle_control(a.score_BL, a.permutation_BL),
    ),
    "random_scores": (
        lambda a, s: weighting.random_scores(a.score_BL, a.target_BL),
        lambda a, s: oracle.random_control(a.score_BL, a.target_BL),
    ),
    "weighted_sum, ratio": (
        weighted_sum,
        lambda a, s: oracle.weighted_loss(
            a.nll_BLK, a.w_BLK, s.head_weight[: a.w_BLK.shape[2]]
        ),
    ),
    "effective_sample_size": (
        lambda a, s: weighting.effective_sample_size(
            weighting.weight_sums(a.w_BLK, a.mask_BLK)
        ),
        lambda a, s: oracle.effective_sample_size(a.w_BLK, a.mask_BLK),
    ),
    "weight_entropy": (
        lambda a, s: weighting.weight_entropy(
            weighting.weight_sums(a.w_BLK, a.mask_BLK)
        ),
        lambda a, s: oracle.weight_entropy(a.w_BLK, a.mask_BLK),
    ),
    "explained_variance": (
        lambda a, s: weighting.explained_variance(a.reward_N, a.value_N, a.mask_N),
        lambda a, s: oracle.explained_variance(
            of_chosen(a.reward_N, a.mask_N), of_chosen(a.value_N, a.mask_N)
        ),
    ),
}


def close(actual, expected, tolerance, name):
    """Equal up to a share of the largest number that the formula gave."""
    expected = expected if isinstance(expected, (tuple, list)) else (expected,)
    for x, y in zip(actual, expected, strict=True):
        assert np.shape(x) == np.shape(y), name
        scale = max(1.0, float(np.max(np.abs(y), initial=0.0)))
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale, err_msg=name)


def torch_or_skip():
    return pytest.importorskip("torch", reason="the base install has no torch")


@contextlib.contextmanager
def strict_api():
    """The standard to the letter, without what a compiler cannot trace."""
    flags = {"boolean_indexing": False, "data_dependent_shapes": False}
    with strict.ArrayAPIStrictFlags(api_version="2025.12", **flags):
        yield


def arrays_of(library, dtype, a, device=None):
    """The example's arrays in a library, its floats in a dtype."""

    def convert(x):
        x = x.astype(np.float32) if x.dtype == float and dtype != "float64" else x
        if library == "strict":
            return strict.asarray(x, device=strict.Device(device or "CPU_DEVICE"))
        if library == "torch":
            torch = torch_or_skip()
            moved = torch.asarray(x, device=device)
            return moved.to(getattr(torch, dtype)) if x.dtype.kind == "f" else moved
        if library == "jax":
            return jax.numpy.asarray(x, dtype=dtype if x.dtype.kind == "f" else x.dtype)
        return x

    return {n: convert(x) for n, x in vars(a).items() if isinstance(x, np.ndarray)}
