"""The table of algorithms; scores, weights and sums of a micro-batch, for any backend.

    nll_BLK (and value_BL) -> score_BL -> w_BLK -> sums

A row of `ALGORITHMS` is all there is to an algorithm: config, `--help`, signals, both
losses and the docs read it, and nothing asks for one by name. The formulas are
`shared/weighting.py`. Pure functions of Array API arrays; weights and value targets are
constants of the loss: each backend stops their gradient where it calls these functions.

`cfg` is a `shared.config.fields.Config`, and `batch` a `shared.data.batches.Batch`,
which both stand below this file.

Axes: B rows, L positions, K heads, S documents of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from array_api_compat import array_namespace

from shared import weighting
from shared.axes import (
    device_of,
    document_members,
    shift_to_heads,
    shift_to_tokens,
    where,
)

Array = Any  # numpy.ndarray, jax.Array, torch.Tensor
Rule = Literal["uniform", "soft", "skip"]


@dataclass(frozen=True)
class Values:
    """What the critic makes of the values and rewards of a batch; see `weighting`."""

    td_error_BL: Array
    advantage_BL: Array
    return_BL: Array


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a micro-batch when its tokens are scored.

    Attributes:
      batch: its rows, their signals among them.
      member_BLS: which document a position is in; built once a micro-batch.
      nll_BL: head 0's nll where it predicts from, if a score is made of it.
      values: where a value head is trained beside.
    """

    batch: Any
    member_BLS: Array
    nll_BL: Array | None = None
    values: Values | None = None


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One way to say how important a token is.

    Attributes:
      doc: one line, for `--help` and the docs.
      formula: score of token j, in the same words.
      rule: the weighting rule that is its default.
      score: `(known, cfg)` -> `score_BL` of every target token.
      signals: columns of `shared/signals/columns.py` that the score reads.
      reads_nll: whether the score is made of head 0's nll.
      value_head: whether a value head is trained, in a first stage of its own and with
        a second loss beside the first.
    """

    doc: str
    formula: str
    rule: Rule
    score: Callable[[Known, Any], Array]
    signals: tuple[str, ...] = ()
    reads_nll: bool = False
    value_head: bool = False


# Scores.


def no_score(known: Known, cfg: Any) -> Array:
    """0 for every token: nothing is more important than anything else."""
    xp = array_namespace(known.batch.noise_BL)
    return xp.zeros_like(known.batch.noise_BL)


def excess_loss(known: Known, cfg: Any) -> Array:
    """By how much the model is worse than the reference: `weighting.excess_loss`."""
    return weighting.excess_loss(
        shift_to_tokens(known.nll_BL),
        known.batch.signals["ref_nll"],
        known.batch.target_BL,
        excess=cfg.weighting.excess,
        excess_floor=cfg.weighting.excess_floor,
    )


def td_or_advantage(known: Known, cfg: Any) -> Array:
    """TD error or advantage, z-scored in each document: `weighting.z_score`."""
    assert known.values is not None
    errors = cfg.critic.score == "td_error"
    raw_BL = known.values.td_error_BL if errors else known.values.advantage_BL
    return weighting.z_score(raw_BL, known.batch.target_BL, known.member_BLS)


PLAIN = "baseline"  # also what a reference is trained and asked with
ALGORITHMS = {
    PLAIN: Algorithm(
        doc="every target weighs 1",
        formula="0",
        rule="uniform",
        score=no_score,
    ),
    "rho1-weighted": Algorithm(
        doc="targets weigh more where the model is worse than a reference",
        formula="nll(j) - ref_nll(j)",
        rule="soft",
        score=excess_loss,
        signals=("ref_nll",),
        reads_nll=True,
    ),
    "rho1-tokenskip": Algorithm(
        doc="the targets with the smallest excess over a reference are left out",
        formula="nll(j) - ref_nll(j)",
        rule="skip",
        score=excess_loss,
        signals=("ref_nll",),
        reads_nll=True,
    ),
    "critic": Algorithm(
        doc="targets weigh more that turn out better than a value head expected",
        formula="z-score of reward(j) + discount * value(j) - value(j-1)",
        rule="soft",
        score=td_or_advantage,
        signals=("reward",),
        value_head=True,
    ),
}


def help_text() -> str:
    """What `--help` says of the algorithms."""
    rows = (f"{name}: {row.doc}" for name, row in ALGORITHMS.items())
    return f"what scores the tokens; {'; '.join(rows)}"


# One micro-batch.


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


def members_of(batch: Any) -> Array:
    """`member_BLS` of a batch."""
    return document_members(batch.document_BL, num_documents=batch.num_documents)


def value_targets(
    value_BL: Array, batch: Any, member_BLS: Array, cfg: Any, *, gae_lambda: float
) -> Values:
    """What the values of a batch should have been; its rewards are a signal."""
    reward_BL = weighting.token_rewards(
        batch.signals["reward"], batch.target_BL, member_BLS, reward=cfg.critic.reward
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
    return Values(td_error_BL, advantage_BL, return_BL)


def needs_nll(cfg: Any) -> bool:
    """Whether scores are made of head 0's nll; a control of noise is not."""
    return cfg.algorithm.reads_nll and cfg.weighting.control != "random"


def score_tokens(known: Known, cfg: Any) -> Array:
    """The algorithm's `score_BL` of every target token, controls applied."""
    batch = known.batch
    if cfg.weighting.control == "random":
        return weighting.random_scores(batch.noise_BL, batch.target_BL)
    score_BL = cfg.algorithm.score(known, cfg)
    if cfg.weighting.control == "shuffle":
        score_BL = weighting.shuffle_scores(score_BL, batch.permutation_BL)
    return score_BL


def weigh(score_BL: Array, mask_BLK: Array, known: Known, cfg: Any) -> Array:
    """Applies the rule in force: `w_BLK`, then 0 where `counted` is False."""
    w_BLK = _by_rule(score_BL, mask_BLK, known, cfg)
    return where(array_namespace(w_BLK), counted(mask_BLK, cfg), w_BLK)


def _by_rule(score_BL: Array, mask_BLK: Array, known: Known, cfg: Any) -> Array:
    if cfg.rule == "skip":
        return weighting.skip_weights(
            score_BL,
            known.batch.target_BL,
            mask_BLK,
            known.member_BLS,
            skip_fraction=cfg.weighting.skip_fraction,
        )
    score_BLK = shift_to_heads(score_BL, num_heads=cfg.heads.count)
    if cfg.rule == "uniform":
        return weighting.uniform_weights(score_BLK, mask_BLK)
    return weighting.soft_weights(
        score_BLK,
        mask_BLK,
        known.member_BLS,
        temperature=cfg.weighting.temperature,
        weight_floor=cfg.weighting.weight_floor,
        weight_ceiling=cfg.weighting.weight_ceiling,
        scope=cfg.weighting.scope,
    )


def head_weights(cfg: Any) -> tuple[float, ...]:
    """`head_weight[k]`, K numbers; head 0 of a trunk that never learns has 0."""
    first = 0.0 if cfg.heads.only else 1.0
    return cfg.heads.weight or (first,) + (1.0,) * (cfg.heads.count - 1)


def counted(mask_BLK: Array, cfg: Any) -> Array:
    """The targets that a step computes: all, but none of a head 0 that is idle.

    It is where the trunk never learns (`heads.only`) and its head_weight is 0: its nll
    would change nothing. Scores and scopes know it all the same.
    """
    if not cfg.heads.only or head_weights(cfg)[0] > 0:
        return mask_BLK
    xp = array_namespace(mask_BLK)
    head_K = xp.arange(cfg.heads.count, device=device_of(mask_BLK))
    return mask_BLK & (head_K > 0)[None, None, :]


def add_up(
    nll_BLK: Array,
    w_BLK: Array,
    mask_BLK: Array,
    value: tuple[Array, Array],
    cfg: Any,
) -> tuple[Sums, Extremes]:
    """Numerators and denominators of a micro-batch.

    Args:
      nll_BLK: read only where the weight is above 0.
      value: sum and count of the value loss.
    """
    xp, mask_BLK = array_namespace(nll_BLK, w_BLK), counted(mask_BLK, cfg)
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


def step_metrics(sums: Sums, extremes: Extremes, cfg: Any) -> dict[str, Array]:
    """What a step logs; `weight_ess` and `kept_fraction` are shares of the targets."""
    xp = array_namespace(sums.weight)
    weights, count = sums.weights, sums.weights["count"]
    nll_K = weighting.ratio(sums.nll_K, sums.rows_K)
    metrics = {"loss": weighting.ratio(sums.loss_sum, sums.weight)}
    for k in range(cfg.heads.count):
        metrics[f"nll_head_{k}"] = nll_K[k]
    for k in range(cfg.heads.count):
        metrics[f"rows_head_{k}"] = sums.rows_K[k]
    if cfg.algorithm.value_head:
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


def gradient_scales(sums: Sums, cfg: Any) -> tuple[Array, Array]:
    """`(1 / W, value_loss_coef / N)`; 0 where there is nothing to divide by.

    The gradient of a step is `grad_L / W + value_loss_coef * grad_V / N`.
    """
    xp = array_namespace(sums.weight)
    one = xp.ones_like(sums.weight)
    scale_V = cfg.critic.value_loss_coef * weighting.ratio(one, sums.value_count)
    return weighting.ratio(one, sums.weight), scale_V
