"""What a step measured, read and held against infinity before anything is kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.algorithms import head_weights
from shared.config.fields import Config

# Of a step: the place of the first tensor whose gradient is not finite, how many there
# are if only another number of it is not, or -1. It has made no update unless it is -1.
NOT_FINITE = "not_finite"
SMALLEST_SCALE = 2.0**-24  # of a float16 loss; below it no gradient has ever fitted


@dataclass(frozen=True, kw_only=True)
class StepRead:
    """What a step measured.

    Attributes:
      metrics: what of it is finite, without the means over nothing.
      skipped: whether it has made no update.
      fault: what was not finite, in words. There is none where a float16 gradient has
        overflowed: the next loss is scaled less.
    """

    metrics: dict[str, float]
    skipped: bool = False
    fault: str = ""


def read_step(
    number: int, metrics: dict[str, Any], cfg: Config, tensors: Sequence[str]
) -> StepRead:
    """The metrics of a step as floats; waits for the step.

    Args:
      metrics: scalars, `NOT_FINITE` among them.
      tensors: the parameters by their names, in the order that it counts in.

    Raises:
      FloatingPointError: naming the step and what is not finite, if an update was made
        all the same, or no float16 gradient is finite any more.
    """
    found = {name: float(x) for name, x in metrics.items()}
    bad, half = int(found.pop(NOT_FINITE, -1)), "loss_scale" in found
    if half and found["loss_scale"] < SMALLEST_SCALE:
        raise FloatingPointError(
            f"loss_scale is {found['loss_scale']:.1e} at step {number}: no float16 "
            "gradient is finite any more"
        )
    wrong = {name: x for name, x in found.items() if not math.isfinite(x)}
    kept = measured({n: x for n, x in found.items() if n not in wrong}, cfg)
    if half:
        wrong = {n: x for n, x in wrong.items() if not n.startswith("grad_norm_")}
    # Of several the same one, whatever the order that a trainer gives them in.
    first = sorted(wrong, key=lambda name: (name != "loss", name))[:1]
    said = [f"{n} must be finite, got {wrong[n]} at step {number}" for n in first]
    where = tensors[bad : bad + 1] if bad >= 0 else ()
    fault = "; ".join([*said, *(f"the gradient of {x} is not finite" for x in where)])
    if not wrong:  # a float16 gradient alone
        fault = ""
    if wrong and bad < 0:
        raise FloatingPointError(fault)
    return StepRead(metrics=kept, skipped=bad >= 0, fault=fault)


def read_reference_step(
    number: int, metrics: dict[str, Any], cfg: Config, tensors: Sequence[str]
) -> dict[str, float]:
    """The loss of a step of the reference, if it has one, to be shown.

    Raises:
      FloatingPointError: if anything of it is not finite.
    """
    try:
        read = read_step(number, metrics, cfg, tensors)
    except FloatingPointError as error:
        raise FloatingPointError(f"the reference: {error}") from None
    if read.fault:
        raise FloatingPointError(f"the reference: {read.fault}")
    return {name: x for name, x in read.metrics.items() if name == "loss"}


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
