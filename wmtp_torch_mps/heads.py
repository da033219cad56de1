"""The prediction heads: which state and which unembedding head k reads.

Axes: B rows, L positions, V vocabulary, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.head_types import HEAD_TYPES
from wmtp_torch_mps.device import computing

if TYPE_CHECKING:
    from wmtp_torch_mps.model import WMTP, Outputs


def head_states(model: "WMTP", outputs: "Outputs") -> list[Tensor]:
    """What each of the K heads multiplies with its unembedding: `states_BLD`.

    Head 0 is the trunk state itself. The others read `s * h + (1 - s) * stop(h)` with
    `s = heads.trunk_gradient_scale`.
    """
    heads = model.cfg.heads
    states, scale = [outputs.hidden_BLD], heads.trunk_gradient_scale
    read = replace(
        outputs,
        hidden_BLD=_scale_gradient(outputs.hidden_BLD, scale),
        residual_BLD=_scale_gradient(outputs.residual_BLD, scale),
    )
    with computing(model.device, model.cfg.machine.dtype):
        for head in model.mtp_heads.values():
            states.append(HEAD_FUNCTIONS[heads.type].state(head, read))
    return states


def unembeddings(model: "WMTP") -> list[Tensor]:
    """`W_VD` of each of the K heads; the same one again where heads share it."""
    shared_VD, heads = model.unembed_VD, model.cfg.heads
    if not HEAD_TYPES[heads.type].own_unembedding:
        return [shared_VD] * heads.count
    return [shared_VD] + [head.weight for head in model.mtp_heads.values()]


def _scale_gradient(x: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return x
    return scale * x + (1 - scale) * x.detach()


# The types of heads: how one is made, how it starts, how it makes its state.


@dataclass(frozen=True)
class HeadFunctions:
    """What a type of `shared/head_types.py` computes.

    Attributes:
      make: `(model)` -> the module of one head; its trunk is there already.
      state: `(module, outputs of the trunk)` -> `state_BLD`.
      start: `(module, model)` copies what a new head starts as a copy of.
    """

    make: Callable[["WMTP"], nn.Module]
    state: Callable[[Any, "Outputs"], Tensor]
    start: Callable[[Any, "WMTP"], None] = lambda head, model: None


class Residual(nn.Module):
    """`h + outer(silu(inner(h)))`, of the state h after the final norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)
        self.outer = nn.Linear(width, width, bias=False)

    def forward(self, h_BLD: Tensor) -> Tensor:
        return h_BLD + self.outer(functional.silu(self.inner(h_BLD)))


class LastBlock(nn.Module):
    """One more last layer of the trunk, and a norm of its own."""

    def __init__(self, layer: nn.Module, norm: Any, hf_config: Any) -> None:
        super().__init__()
        epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
        self.block: Any = type(layer)(hf_config, hf_config.num_hidden_layers - 1)
        self.norm: Any = type(norm)(hf_config.hidden_size, eps=epsilon)

    def forward(self, x_BLD: Tensor, positions: dict[str, Any]) -> Tensor:
        return self.norm(self.block(x_BLD, **positions))


def _make_linear(model: "WMTP") -> nn.Module:
    shape = model.cfg.model
    return nn.Linear(shape.width, shape.vocab_size, bias=False)


@torch.no_grad()
def _start_linear(head: nn.Linear, model: "WMTP") -> None:
    if model.cfg.heads.linear_start == "unembedding":
        head.weight.copy_(model.unembed_VD)


def _make_block(model: "WMTP") -> nn.Module:
    return LastBlock(model.last_layer[0], model.final_norm[0], model.base.config)


def _start_block(head: LastBlock, model: "WMTP") -> None:
    head.block.load_state_dict(model.last_layer[0].state_dict())
    head.norm.load_state_dict(model.final_norm[0].state_dict())


HEAD_FUNCTIONS = {
    "linear": HeadFunctions(
        make=_make_linear,
        state=lambda head, outputs: outputs.hidden_BLD,
        start=_start_linear,
    ),
    "residual": HeadFunctions(
        make=lambda model: Residual(model.cfg.model.width),
        state=lambda head, outputs: head(outputs.hidden_BLD),
    ),
    "block": HeadFunctions(
        make=_make_block,
        state=lambda head, outputs: head(outputs.residual_BLD, outputs.positions),
        start=_start_block,
    ),
}
