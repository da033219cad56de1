"""One update, and one evaluation pass.

    gradient = grad_L / W + value_loss_coef * grad_V / N

`grad_L`, `W`, `grad_V`, `N` are summed over micro-batches and divided once, so 1 x 8
and 8 x 1 are the same step, and a micro-batch that does not fit into memory can be
halved without changing what is computed.

Axes: A micro-batches of a step, B rows, L positions.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from shared.algorithms import Extremes, Sums, combine, gradient_scales, step_metrics
from shared.config.fields import Config
from shared.data.batches import Batch, micro_batches
from shared.messages import first_line
from shared.run.finite import NOT_FINITE
from shared.run.memory import cut_finer
from wmtp_torch_mps import critic
from wmtp_torch_mps.device import (
    empty_cache,
    is_out_of_memory,
    memory_in_use,
    peak_memory,
    to_device,
)
from wmtp_torch_mps.heads import head_states
from wmtp_torch_mps.loss import add_gradients, nll_heads, run_trunk, targets_of
from wmtp_torch_mps.model import WMTP, group_of, learning
from wmtp_torch_mps.optimizer import learning_rate, set_rates, update_unless
from wmtp_torch_mps.state import TrainState


def train_step(
    state: TrainState, batches: Batch, num_steps: int
) -> tuple[TrainState, dict[str, Any]]:
    """One update over the micro-batches `[A, B, L]`: `(state, metrics)`.

    Model and optimizer are changed in place. Where a metric or a gradient is not
    finite, no update is made: parameters, moments and Adam's count stay as they are,
    and the step counts as a step. In float16 the next loss is then scaled less.
    """
    model, optimizer, scaler = state.params, state.optimizer, state.scaler
    cfg, device = model.cfg, model.device
    sums, extremes, value_gradients = _accumulate(state, to_device(batches, device))
    parameters = learning(model)
    scales = join(parameters, value_gradients, sums, cfg, unit=loss_unit(cfg))
    metrics = step_metrics(sums, extremes, cfg)
    scaler.unscale_(optimizer)
    frozen = state.step < cfg.head_warmup
    norms, bad_T = _clip(parameters, scales, cfg, frozen=frozen)
    metrics |= norms
    metrics[NOT_FINITE] = _first_not_finite(bad_T, metrics)
    skipped = metrics[NOT_FINITE] >= 0  # where it lies: the host does not wait for it
    metrics["lr"] = learning_rate(cfg.optimizer, num_steps, state.step)
    set_rates(optimizer, metrics["lr"])
    update_unless(skipped, optimizer)
    state.skipped += skipped
    state.skipped_frozen += skipped & frozen
    if scaler.is_enabled():
        scaler.update()
        metrics["loss_scale"] = scaler.get_scale()
    state.step += 1
    metrics |= memory_in_use(device)
    state.peak_bytes = max(state.peak_bytes, peak_memory(device))
    empty_cache(device, state.step, cfg.machine.empty_cache_every)
    if state.splits > 1:
        metrics["micro_batch_rows"] = cfg.data.batch_size // state.splits
    return state, metrics


def _accumulate(
    state: TrainState, batches: Batch
) -> tuple[Sums, Extremes, dict[str, Tensor]]:
    """Sums of all micro-batches, gradients in `grad`, the value loss's by name.

    Where memory runs out, all is done again in smaller micro-batches.

    Raises:
      MemoryError: if one row is too much.
    """
    while True:
        try:
            return _add_up(state, batches)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
            rows = batches.tokens_BL.shape[1]
            state.splits = cut_finer(state.step + 1, rows, state.splits, reason)
        # Only here has the error, with all tensors that it held, gone.
        state.optimizer.zero_grad(set_to_none=True)
        empty_cache(state.params.device, 0, 1)


def _add_up(
    state: TrainState, batches: Batch
) -> tuple[Sums, Extremes, dict[str, Tensor]]:
    model, cfg = state.params, state.params.cfg
    state.optimizer.zero_grad(set_to_none=True)
    value_gradients: dict[str, Tensor] = {}
    sums = extremes = None
    for number, batch in enumerate(micro_batches(batches, state.splits)):
        with _dropout_seed(cfg, state.step, number):
            here, extreme = add_gradients(
                model,
                batch,
                value_gradients,
                scale=state.scaler.get_scale() * loss_unit(cfg),
                dropping=cfg.model.dropout > 0,
            )
        sums = here if sums is None else combine(sums, here)
        extremes = extreme if extremes is None else _widest(extremes, extreme)
    return sums, extremes, value_gradients


def _widest(a: Extremes, b: Extremes) -> Extremes:
    return Extremes(
        torch.minimum(a.smallest, b.smallest), torch.maximum(a.largest, b.largest)
    )


@contextmanager
def _dropout_seed(cfg: Config, step: int, number: int) -> Iterator[None]:
    """Dropout of a micro-batch depends on seed, step and its number alone."""
    if cfg.model.dropout > 0:
        seed = ((cfg.seed + 1) * 1_000_003 + step) * 1_009 + number
        torch.manual_seed(seed % 2**63)
    yield


def loss_unit(cfg: Config) -> float:
    """In float16 sums over a micro-batch overflow, so they are made of so small terms.

    About one over the positions of a micro-batch, a power of 2; 1 in other dtypes.
    """
    if cfg.machine.dtype != "float16":
        return 1.0
    return 2.0 ** -math.ceil(math.log2(cfg.data.batch_size * cfg.data.max_length))


@torch.no_grad()
def join(
    parameters: dict[str, torch.nn.Parameter],
    value_gradients: dict[str, Tensor],
    sums: Sums,
    cfg: Config,
    *,
    unit: float = 1.0,
) -> dict[str, Tensor]:
    """`grad_L / W + value_loss_coef * grad_V / N`; a part with nothing in it is 0.

    Both gradients come in so many `unit`s (`loss_unit`), and go out in ones.

    Returns:
      By name, what `grad` is still to be multiplied with: clipping multiplies too, and
      one pass over all gradients is saved.
    """
    scale_L, scale_V = (scale / unit for scale in gradient_scales(sums, cfg))
    scales = dict.fromkeys(parameters, scale_L)
    for name, parameter in parameters.items():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if name in value_gradients:
            parameter.grad.mul_(scale_L).add_(value_gradients[name].mul_(scale_V))
            scales[name] = torch.ones_like(scale_L)
    return scales


@torch.no_grad()
def divide(
    parameters: dict[str, torch.nn.Parameter],
    value_gradients: dict[str, Tensor],
    sums: Sums,
    cfg: Config,
    *,
    unit: float = 1.0,
) -> None:
    """`join`, and multiplied: the gradient of a step before it is clipped."""
    scales = join(parameters, value_gradients, sums, cfg, unit=unit)
    for name, parameter in parameters.items():
        parameter.grad.mul_(scales[name])


@torch.no_grad()
def _clip(
    parameters: dict[str, torch.nn.Parameter],
    scales: dict[str, Tensor],
    cfg: Config,
    *,
    frozen: bool,
) -> tuple[dict[str, Tensor], Tensor]:
    """Clips by global norm; the norms before, of trunk and of all else, and which
    parameters have a gradient that is not finite.

    A `frozen` trunk (head warm-up) has no gradient, in the norm as for the optimizer,
    which leaves it alone and counts its updates from the first that it makes.

    Args:
      scales: of `join`.
    """
    norms: dict[bool, list[Tensor]] = {True: [], False: []}
    finite = []
    for name, parameter in parameters.items():
        in_trunk = group_of(name) == "trunk"
        norms[in_trunk].append(_norm(parameter.grad) * scales[name].abs())
        finite.append(norms[in_trunk][-1].isfinite())
        if frozen and in_trunk:
            parameter.grad = None
    nothing = (norms[True] or norms[False])[0].new_zeros(())
    trunk, others = (
        _norm(torch.stack(norms[of])) if norms[of] else nothing for of in (True, False)
    )
    total = others if frozen else torch.hypot(trunk, others)
    factor = (cfg.optimizer.clip_norm / total).clamp(max=1.0)
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            parameter.grad.mul_(factor * scales[name])
    norms_of = {"grad_norm_trunk": trunk, "grad_norm_heads": others}
    return norms_of, ~torch.stack(finite)


def _first_not_finite(bad_T: Tensor, metrics: dict[str, Tensor]) -> Tensor:
    """The place of the first parameter whose gradient is not finite, or -1; how many
    there are where only a metric is not.
    """
    finite = torch.stack([*metrics.values()]).isfinite().all()
    without = torch.where(finite, -1, len(bad_T))
    return torch.where(bad_T.any(), bad_T.int().argmax(), without)


def _norm(x: Tensor) -> Tensor:
    """Of all numbers, row by row.

    Torch adds up one array's squares in so few places that the norm of 40 million
    numbers in float32 is 0.3 % off on a CPU; this one is not, and is faster.
    """
    norm = torch.linalg.vector_norm
    return norm(norm(x, dim=-1)) if x.ndim > 1 else norm(x)


@torch.no_grad()
def eval_step(model: WMTP, batch: Batch) -> dict[str, Any]:
    """Unweighted sums over every target of `[B, L]` rows, and what they are sums of.

    Beside them what the critic reads. nll and values are what the weights of a row can
    be told from afterwards (`shared/inspection/`).
    """
    cfg = model.cfg
    batch = to_device(batch, model.device)
    outputs = run_trunk(model, batch)
    targets_BLK, mask_BLK = targets_of(batch, cfg)
    states = head_states(model, outputs)
    nll_BLK, _ = nll_heads(model, states, targets_BLK, mask_BLK)
    result = {"nll_K": nll_BLK.sum((0, 1)), "count_K": mask_BLK.sum((0, 1))}
    result["nll_BLK"] = nll_BLK
    if cfg.algorithm.value_head:
        value_BL, return_BL = critic.fixed_returns(model, outputs.hidden_BLD, batch)
        result |= {"value_BL": value_BL, "return_BL": return_BL}
    return {name: x.cpu().numpy() for name, x in result.items()}
