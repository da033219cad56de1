"""Operations that Apple's GPU has computed wrongly, each small and by itself.

What a run does not compute is not probed: an open fault elsewhere stops nobody. The
inputs are made on the CPU from fixed seeds; every answer comes back there.

Axes: R rows, D width, V vocabulary, B rows of a batch, L positions, S documents.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared import axes, weighting
from shared.config.fields import Config
from wmtp_torch_mps.optimizer import make_optimizer, set_rates, update_unless
from wmtp_torch_mps.self_test import GRADIENT, Compute
from wmtp_torch_mps.state import make_scaler

HEAD_ROWS = 256  # enough to be cut into tiles; a vocabulary of 50 257 then takes 50 MB
WIDTH = 16


def probes_of(cfg: Config) -> dict[str, Compute]:
    """What a run of this config computes of what has been wrong, by name."""
    rows = cfg.data.batch_size * cfg.data.max_length
    head_rows = min(rows, HEAD_ROWS)
    return {
        f"linear over {rows} rows": partial(linear, rows),
        "unembedding": partial(unembedding, head_rows, cfg.model.vocab_size),
        "activations": activations,
        "views": views,
        "weights": weights,
        "updates": partial(updates, cfg),
    }


def linear(rows: int, device: torch.device) -> dict[str, Tensor]:
    """A linear over so many rows, as `[B, L, D]` (pytorch/pytorch#177116)."""
    whole = math.ceil(rows / 64)
    leaves = {
        "input": _numbers(0, 64, whole, WIDTH),
        "weight": _numbers(1, 2 * WIDTH, WIDTH),
        "bias": _numbers(2, 2 * WIDTH),
    }
    return _run(leaves, device, lambda t: functional.linear(**t))


def unembedding(rows: int, vocab_size: int, device: torch.device) -> dict[str, Tensor]:
    """Two linears in a row and a loss (pytorch/pytorch#153957, #109457)."""
    leaves = {
        "x": _numbers(3, rows, WIDTH),
        "inner": _numbers(4, WIDTH, WIDTH),
        "outer": _numbers(5, vocab_size, WIDTH),
    }
    targets = torch.arange(rows) * 7919 % vocab_size

    def nll(t: dict[str, Tensor]) -> Tensor:
        logits = functional.linear(functional.linear(t["x"], t["inner"]), t["outer"])
        where = targets.to(device)[:, None]
        return torch.logsumexp(logits, dim=1) - logits.gather(1, where).squeeze(1)

    return _run(leaves, device, nll)


def activations(device: torch.device) -> dict[str, Tensor]:
    """Backward through activations of permuted tensors (pytorch/pytorch#175188)."""
    functions = {
        "silu": functional.silu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "gelu": partial(functional.gelu, approximate="tanh"),
    }
    found = {}
    for name, function in functions.items():
        leaves = {name: _numbers(6, 6, 40, WIDTH)}
        answer = _run(leaves, device, lambda t: function(t[name].permute(2, 0, 1)))  # noqa: B023
        found |= {f"{name} ({n})" if n == "out" else n: x for n, x in answer.items()}
    return found


def views(device: torch.device) -> dict[str, Tensor]:
    """Expanded, sliced, chosen numbers (pytorch/pytorch#180201, #161641, #150967)."""
    leaves = {
        "row": _numbers(7, 1, WIDTH),
        "wide": _numbers(8, 3 * WIDTH, WIDTH),
        "other": _numbers(9, 40, WIDTH),
    }

    def mix(t: dict[str, Tensor]) -> Tensor:
        expanded = t["row"].expand(40, WIDTH)
        sliced = functional.linear(expanded * t["other"], t["wide"][WIDTH : 2 * WIDTH])
        return torch.where(t["other"] > 0, sliced, expanded).T + t["wide"][::3].sum()

    return _run(leaves, device, mix)


def weights(device: torch.device) -> dict[str, Tensor]:
    """The formulas, on scores with ties: sorts must be stable, sums of int64 whole."""
    B, L, S = 3, 60, 4
    document_BL = (torch.arange(L) // (L // S) + 1).repeat(B, 1)
    score_BL = (2 * _numbers(10, B, L)).round()
    target_BL = torch.arange(L)[None, :].repeat(B, 1) % (L // S) > 0
    document_BL, score_BL, target_BL = (
        x.to(device) for x in (document_BL, score_BL, target_BL)
    )
    member_BLS = axes.document_members(document_BL, num_documents=S)
    mask_BLK = axes.shift_to_heads(target_BL, num_heads=2)
    found = {
        "skip": weighting.skip_weights(
            score_BL, target_BL, mask_BLK, member_BLS, skip_fraction=0.3
        ),
        "soft": weighting.soft_weights(
            axes.shift_to_heads(score_BL, num_heads=2),
            mask_BLK,
            member_BLS,
            temperature=0.7,
            weight_floor=0.05,
            weight_ceiling=3.0,
            scope="document",
        ),
        "z-score": weighting.z_score(score_BL, target_BL, member_BLS),
        "advantage": weighting.advantages(
            score_BL, target_BL, discount=0.99, gae_lambda=0.95
        ),
    }
    return {name: x.cpu() for name, x in found.items()}


def updates(cfg: Config, device: torch.device) -> dict[str, Tensor]:
    """Three updates by the run's optimizer, of small parameters.

    The second has a gradient that is not finite, and must change nothing.
    """
    start = {"matrix.weight": _numbers(12, 40, WIDTH), "bias": _numbers(13, WIDTH)}
    parameters = {name: nn.Parameter(x.to(device)) for name, x in start.items()}
    optimizer = make_optimizer(cfg.optimizer, parameters)
    scaler = make_scaler(cfg, device)
    set_rates(optimizer, 0.1)
    for number in range(3):
        overflow = math.inf if number == 1 else 1.0
        for seed, parameter in enumerate(parameters.values(), 14 + 2 * number):
            gradient = _numbers(seed, *parameter.shape).to(device)
            parameter.grad = gradient * (overflow * scaler.get_scale())
        scaler.unscale_(optimizer)
        gradients = [x.grad for x in parameters.values() if x.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(x) for x in gradients])
        update_unless(~norms.isfinite().all(), optimizer)
        if scaler.is_enabled():
            scaler.update()
    return {name: x.detach().cpu() for name, x in parameters.items()}


def _numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def _run(
    leaves: dict[str, Tensor],
    device: torch.device,
    forward: Callable[[dict[str, Tensor]], Tensor],
) -> dict[str, Tensor]:
    """The answer on a device, and the gradient of `sum(answer * fixed numbers)`."""
    here = {name: x.to(device).requires_grad_() for name, x in leaves.items()}
    out = forward(here)
    factor = _numbers(11, *out.shape).to(device)
    gradients = torch.autograd.grad((out * factor).sum(), list(here.values()))
    named = {GRADIENT + n: g.cpu() for n, g in zip(here, gradients, strict=True)}
    return {"out": out.detach().cpu()} | named
