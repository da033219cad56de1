"""What a step measured, read and held against infinity before anything is kept."""

import math
from collections.abc import Sequence
from typing import Any

from shared.algorithms import head_weights
from shared.config.fields import Config

# Of a step: the place of the first tensor whose gradient is not finite, or -1.
NOT_FINITE = "not_finite"
SMALLEST_SCALE = 2.0**-24  # of a float16 loss; below it no gradient has ever fitted


def read_step(
    number: int, metrics: dict[str, Any], cfg: Config, tensors: Sequence[str]
) -> dict[str, float]:
    """The metrics of a step as floats, without the means over nothing.

    Waits for the step. A float16 gradient may overflow, which makes no update: its norm
    is left out.

    Args:
      metrics: scalars, `NOT_FINITE` among them.
      tensors: the parameters by their names, in the order that it counts in.

    Raises:
      FloatingPointError: naming the step, what is not finite, and the first tensor
        whose gradient is not.
    """
    found = {name: float(x) for name, x in metrics.items()}
    bad, half = int(found.pop(NOT_FINITE, -1)), "loss_scale" in found
    if half and found["loss_scale"] < SMALLEST_SCALE:
        raise FloatingPointError(
            f"loss_scale is {found['loss_scale']:.1e} at step {number}: no float16 "
            "gradient is finite any more"
        )
    for name, value in list(found.items()):
        if math.isfinite(value):
            continue
        if half and name.startswith("grad_norm_"):
            del found[name]
            continue
        where = f"; the gradient of {tensors[bad]} is not finite" if bad >= 0 else ""
        said = f"{name} must be finite, got {value} at step {number}{where}"
        raise FloatingPointError(said)
    return measured(found, cfg)


def read_reference_step(
    number: int, metrics: dict[str, Any], cfg: Config, tensors: Sequence[str]
) -> dict[str, float]:
    """The loss of a step of the reference, if it has one, to be shown.

    Raises:
      FloatingPointError: as `read_step`.
    """
    try:
        found = read_step(number, metrics, cfg, tensors)
    except FloatingPointError as error:
        raise FloatingPointError(f"the reference: {error}") from None
    return {name: x for name, x in found.items() if name == "loss"}


def require_finite_epoch(told: dict[str, float], epoch: int) -> None:
    """Raises FloatingPointError for a value head that has diverged in stage 1."""
    for name, value in told.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"value head: {name} must be finite, got {value} after epoch {epoch}"
            )


def measured(metrics: dict[str, float], cfg: Config) -> dict[str, float]:
    """The metrics of a step without the means over nothing.

    A head without rows has no nll, a step without any has no loss, no value loss and no
    weights. A step always keeps at least one target of those it has.
    """
    heads = range(cfg.heads.count)
    rows_K = [metrics[f"rows_head_{k}"] for k in heads]
    absent = {f"nll_head_{k}" for k in heads if rows_K[k] == 0}
    if not any(a * b for a, b in zip(rows_K, head_weights(cfg), strict=True)):
        absent.add("loss")
    if not any(rows_K):
        absent |= {"value_loss", "kept_fraction"}
        absent |= {name for name in metrics if name.startswith("weight_")}
    return {name: x for name, x in metrics.items() if name not in absent}
