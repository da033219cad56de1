"""Scores, weights and sums of one micro-batch, for either backend.

    nll_BLK (and value_BL) -> score_BL -> w_BLK -> sums

Which formula an algorithm takes is decided here; the formulas are `shared.weighting`.
Pure functions of Array API arrays. Weights and value targets are constants of the loss:
each backend stops their gradient where it calls these functions.

Axes: B rows, L positions, K heads.
"""

from dataclasses import dataclass, fields
from typing import Any

from array_api_compat import array_namespace

from shared import weighting
from shared.axes import document_members, shift_to_heads, shift_to_tokens, where
from shared.config.fields import Config
from shared.data.batches import Batch

Array = Any  # numpy.ndarray, jax.Array, torch.Tensor


@dataclass(frozen=True)
class Sums:
    """What micro-batches and devices add up before anything is divided.

    Attributes:
      loss_sum: numerator of the loss.
      weight: `sum(head_weight * w)`, the denominator of the loss.
      value_sum: sum of squared value errors.
      value_count: targets of the value loss.
      nll_K, rows_K: per head, nll and number of the rows with a weight above 0.
      weights: see `weighting.weight_sums`.
    """

    loss_sum: Array
    weight: Array
    value_sum: Array
    value_count: Array
    nll_K: Array
    rows_K: Array
    weights: dict[str, Array]


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest weight of a valid target; infinities if there is none."""

    smallest: Array
    largest: Array


def value_targets(
    value_BL: Array, batch: Batch, cfg: Config, *, gae_lambda: float
) -> tuple[Array, Array, Array]:
    """`(td_error_BL, advantage_BL, return_BL)` of a batch whose rewards are known."""
    member_BLS = document_members(batch.document_BL, num_documents=batch.num_documents)
    reward_BL = weighting.token_rewards(
        batch.reward_BL, batch.target_BL, member_BLS, reward=cfg.critic.reward
    )
    td_error_BL = weighting.td_errors(
        reward_BL, value_BL, batch.target_BL, discount=cfg.critic.discount
    )
    advantage_BL = weighting.advantages(
        td_error_BL,
        batch.target_BL,
        discount=cfg.critic.discount,
        gae_lambda=gae_lambda,
    )
    return_BL = weighting.returns(advantage_BL, value_BL, batch.target_BL)
    return td_error_BL, advantage_BL, return_BL


def needs_nll(cfg: Config) -> bool:
    """Whether scores are made of head 0's nll."""
    measured = cfg.algo in ("rho1-weighted", "rho1-tokenskip")
    return measured and cfg.weighting.control != "random"


def score_tokens(
    nll_BL: Array | None, value_BL: Array | None, batch: Batch, cfg: Config
) -> Array:
    """The algorithm's `score_BL` of every target token, controls applied.

    Args:
      nll_BL: head 0's nll at the position that it predicts from; read by rho1 alone.
      value_BL: what the value head says; read by the critic alone.
    """
    target_BL = batch.target_BL
    if cfg.weighting.control == "random":
        return weighting.random_scores(batch.noise_BL, target_BL)
    if cfg.algo == "baseline":
        xp = array_namespace(batch.noise_BL)
        score_BL = xp.zeros_like(batch.noise_BL)
    elif cfg.algo == "critic":
        td_error_BL, advantage_BL, _ = value_targets(
            value_BL, batch, cfg, gae_lambda=cfg.critic.gae_lambda
        )
        member_BLS = document_members(
            batch.document_BL, num_documents=batch.num_documents
        )
        raw_BL = td_error_BL if cfg.critic.score == "td_error" else advantage_BL
        score_BL = weighting.z_score(raw_BL, target_BL, member_BLS)
    else:
        score_BL = weighting.excess_loss(
            shift_to_tokens(nll_BL),
            batch.ref_nll_BL,
            target_BL,
            excess=cfg.weighting.excess,
            excess_floor=cfg.weighting.excess_floor,
        )
    if cfg.weighting.control == "shuffle":
        score_BL = weighting.shuffle_scores(score_BL, batch.permutation_BL)
    return score_BL


def weigh(score_BL: Array, mask_BLK: Array, batch: Batch, cfg: Config) -> Array:
    """Applies the rule in force: `w_BLK`."""
    member_BLS = document_members(batch.document_BL, num_documents=batch.num_documents)
    if cfg.rule == "skip":
        return weighting.skip_weights(
            score_BL,
            batch.target_BL,
            mask_BLK,
            member_BLS,
            skip_fraction=cfg.weighting.skip_fraction,
        )
    score_BLK = shift_to_heads(score_BL, num_heads=cfg.heads.count)
    if cfg.rule == "uniform":
        return weighting.uniform_weights(score_BLK, mask_BLK)
    return weighting.soft_weights(
        score_BLK,
        mask_BLK,
        member_BLS,
        temperature=cfg.weighting.temperature,
        weight_floor=cfg.weighting.weight_floor,
        weight_ceiling=cfg.weighting.weight_ceiling,
        scope=cfg.weighting.scope,
    )


def head_weights(cfg: Config) -> tuple[float, ...]:
    """`head_weight[k]`, K numbers."""
    return cfg.heads.weight or (1.0,) * cfg.heads.count


def add_up(
    nll_BLK: Array,
    w_BLK: Array,
    mask_BLK: Array,
    value: tuple[Array, Array],
    cfg: Config,
) -> tuple[Sums, Extremes]:
    """Numerators and denominators of a micro-batch.

    Args:
      nll_BLK: read only where the weight is above 0.
      value: sum and count of the value loss.
    """
    xp = array_namespace(nll_BLK, w_BLK)
    loss_sum, weight = weighting.weighted_sum(
        nll_BLK, w_BLK, head_weight=head_weights(cfg)
    )
    kept_BLK = w_BLK > 0
    sums = Sums(
        loss_sum=loss_sum,
        weight=weight,
        value_sum=value[0],
        value_count=value[1],
        nll_K=xp.sum(where(xp, kept_BLK, nll_BLK), axis=(0, 1)),
        rows_K=xp.sum(xp.astype(kept_BLK, nll_BLK.dtype), axis=(0, 1)),
        weights=weighting.weight_sums(w_BLK, mask_BLK),
    )
    infinite = xp.full_like(w_BLK, xp.inf)
    extremes = Extremes(
        smallest=xp.min(xp.where(mask_BLK, w_BLK, infinite)),
        largest=xp.max(xp.where(mask_BLK, w_BLK, -infinite)),
    )
    return sums, extremes


def combine(a: Sums, b: Sums) -> Sums:
    """The sums of two micro-batches together."""

    def add(x: Any, y: Any) -> Any:
        return {k: x[k] + y[k] for k in x} if isinstance(x, dict) else x + y

    names = [field.name for field in fields(Sums)]
    return Sums(**{name: add(getattr(a, name), getattr(b, name)) for name in names})


def step_metrics(sums: Sums, extremes: Extremes, cfg: Config) -> dict[str, Array]:
    """What a step logs; `weight_ess` and `kept_fraction` are shares of the targets."""
    xp = array_namespace(sums.weight)
    weights, count = sums.weights, sums.weights["count"]
    nll_K = weighting.ratio(sums.nll_K, sums.rows_K)
    metrics = {"loss": weighting.ratio(sums.loss_sum, sums.weight)}
    for k in range(cfg.heads.count):
        metrics[f"nll_head_{k}"] = nll_K[k]
    for k in range(cfg.heads.count):
        metrics[f"rows_head_{k}"] = sums.rows_K[k]
    if cfg.algo == "critic":
        metrics["value_loss"] = weighting.ratio(sums.value_sum, sums.value_count)
    nothing = xp.zeros_like(extremes.smallest)
    ess = weighting.effective_sample_size(weights)
    return metrics | {
        "weight_mean": weighting.ratio(weights["w"], count),
        "weight_min": xp.where(count > 0, extremes.smallest, nothing),
        "weight_max": xp.where(count > 0, extremes.largest, nothing),
        "weight_entropy": weighting.weight_entropy(weights),
        "weight_ess": weighting.ratio(ess, count),
        "kept_fraction": weighting.ratio(weights["kept"], count),
    }


def gradient_scales(sums: Sums, cfg: Config) -> tuple[Array, Array]:
    """`(1 / W, value_loss_coef / N)`; 0 where there is nothing to divide by.

    The gradient of a step is `grad_L / W + value_loss_coef * grad_V / N`.
    """
    xp = array_namespace(sums.weight)
    one = xp.ones_like(sums.weight)
    scale_V = cfg.critic.value_loss_coef * weighting.ratio(one, sums.value_count)
    return weighting.ratio(one, sums.weight), scale_V
