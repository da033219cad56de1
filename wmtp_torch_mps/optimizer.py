"""Optimizer and learning-rate schedule: the updates that optax makes in `wmtp_jax`."""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from shared.config.fields import OptimizerConfig
from shared.state.header import moment_names
from wmtp_torch_mps.model import WMTP, group_of, learning

# Optimizer -> its moments (`moment_names`), as torch names them.
MOMENTS = {
    "adamw": {"first": "exp_avg", "second": "exp_avg_sq"},
    "lion": {"first": "exp_avg"},
    "sgd": {"first": "momentum_buffer"},
}


def learning_rate(cfg: OptimizerConfig, num_steps: int, number: int) -> float:
    """Rate of update `number` (0, 1, ...): linear warm-up, then the schedule.

    Warm-up step `n` takes `(n + 1) / warmup_steps` of the peak. `linear` and `cosine`
    reach `final_lr_scale * lr` at `num_steps`.
    """
    if number < cfg.warmup_steps:
        return cfg.lr * (number + 1) / cfg.warmup_steps
    rest = max(1, num_steps - cfg.warmup_steps)
    done, last = min(1.0, (number - cfg.warmup_steps) / rest), cfg.final_lr_scale
    left = {
        "constant": 1.0,
        "linear": 1 - done * (1 - last),
        "cosine": last + (1 - last) * (1 + math.cos(math.pi * done)) / 2,
    }[cfg.schedule]
    return cfg.lr * left


class Lion(torch.optim.Optimizer):
    """`p -= lr * (sign(b1 * m + (1 - b1) * g) + decay * p)`, `m = b2 m + (1 - b2) g`.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv
    2302.06675, algorithm 2.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                moment = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                update = torch.lerp(p.grad, moment, beta1).sign_()
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"])
                moment.lerp_(p.grad, 1 - beta2)


def make_optimizer(
    rule: OptimizerConfig, parameters: dict[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """The update rule, with a rate per group and decay on matrices only.

    A parameter group has the fields `name` (trunk, heads, value) and `scale`, over the
    schedule's rate.
    """
    scales = {"heads": rule.head_lr_scale, "value": rule.value_lr_scale}
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in parameters.items():
        key = group_of(name), decays(name, parameter)
        groups.setdefault(key, []).append(parameter)
    made = [
        {
            "params": params,
            "name": group,
            "scale": scales.get(group, 1.0),
            "weight_decay": rule.weight_decay if decaying else 0.0,
        }
        for (group, decaying), params in groups.items()
    ]
    betas = (rule.beta1, rule.beta2)
    if rule.name == "adamw":
        return torch.optim.AdamW(
            made, lr=rule.lr, betas=betas, eps=rule.epsilon, fused=True
        )
    if rule.name == "lion":
        return Lion(made, {"lr": rule.lr, "betas": betas})
    return torch.optim.SGD(made, lr=rule.lr, momentum=rule.beta1)


def decays(name: str, parameter: Tensor) -> bool:
    """Matrices decay; not norms, biases, positions."""
    return parameter.ndim >= 2 and not name.endswith("wpe.weight")


def set_rates(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next update in every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


@torch.no_grad()
def update_unless(skipped: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One update, or none: parameters, moments and counts then stay as they are.

    AdamW's fused kernel asks `found_inf` itself, where the gradient lies; for the
    others, and a kernel that does not ask, the host waits for the answer.
    """
    fused = isinstance(optimizer, torch.optim.AdamW)
    if not fused or (skipped.is_mps and not kernel_asks(skipped.device)):
        if not bool(skipped):
            optimizer.step()
        return
    optimizer.grad_scale, optimizer.found_inf = None, skipped.float()  # as GradScaler
    try:
        optimizer.step()
    finally:
        del optimizer.grad_scale, optimizer.found_inf


@cache
def kernel_asks(device: torch.device) -> bool:
    """Whether the fused AdamW of a device makes no update where `found_inf` is 1.

    Older kernels of mps did not ask (pytorch/pytorch#186360).
    """
    parameter = nn.Parameter(torch.ones(4, device=device))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    for found in (0.0, 1.0):
        before = parameter.detach().clone()
        parameter.grad = torch.full_like(before, math.nan if found else 1.0)
        optimizer.grad_scale = None
        optimizer.found_inf = torch.full((), found, device=device)
        optimizer.step()
    return torch.equal(parameter.detach(), before)


def moments_of(
    optimizer: torch.optim.Optimizer, model: WMTP
) -> dict[str, dict[str, Tensor]]:
    """Moment -> name of the parameter -> tensor; zeros before the first update."""
    cfg = model.cfg.optimizer
    return {
        moment: {
            name: optimizer.state.get(p, {}).get(
                MOMENTS[cfg.name][moment], torch.zeros_like(p)
            )
            for name, p in learning(model).items()
        }
        for moment in moment_names(cfg)
    }


def restore_moments(
    optimizer: torch.optim.Optimizer,
    model: WMTP,
    moments: dict[str, dict[str, Tensor]],
    updates: int,
    frozen: int = 0,
) -> None:
    """The inverse of `moments_of`, after so many updates.

    Args:
      frozen: updates of those that left the trunk out; it counts from there.
    """
    name_of = model.cfg.optimizer.name
    for moment, tensors in moments.items():
        key = MOMENTS[name_of][moment]
        for name, parameter in learning(model).items():
            made = updates - (frozen if group_of(name) == "trunk" else 0)
            if made <= 0:  # as new
                continue
            state = optimizer.state[parameter]
            state[key] = tensors[name].to(parameter.device, parameter.dtype)
            if name_of == "adamw":
                state["step"] = torch.tensor(float(made), device=parameter.device)
