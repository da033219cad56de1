"""The prediction heads: which state and which unembedding head k reads.

What a head computes is written once for torch, in the file that travels with an
exported model (`shared/huggingface/templates/modeling_wmtp.py`).

Axes: B rows, L positions, V vocabulary, D width.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shared.huggingface.templates.modeling_wmtp import HEAD_TYPES, BlockHead, HeadType
from wmtp_torch_mps.precision import computing

if TYPE_CHECKING:
    from wmtp_torch_mps.model import WMTP, Outputs


def head_states(model: "WMTP", outputs: "Outputs") -> list[Tensor]:
    """What each of the K heads multiplies with its unembedding: `states_BLD`.

    Head 0 is the trunk state itself. The others read `s * h + (1 - s) * stop(h)` with
    `s = heads.trunk_gradient_scale`, and their unembedding likewise where it is shared.
    """
    kind, scale = kind_of(model), model.cfg.heads.trunk_gradient_scale
    of_trunk = outputs.residual_BLD if kind.before_norm else outputs.hidden_BLD
    read_BLD = _scale_gradient(of_trunk, scale)
    positions = outputs.positions if kind.before_norm else {}
    states = [outputs.hidden_BLD]
    with computing(model.device, model.cfg.machine.dtype):
        for head in model.mtp_heads.values():
            own = kind.own_unembedding
            states.append(read_BLD if own else head(read_BLD, **positions))
    return states


def unembeddings(model: "WMTP") -> list[Tensor]:
    """`W_VD` of each of the K heads; the same one again where heads share it."""
    shared_VD, count = model.unembed_VD, model.cfg.heads.count
    if not kind_of(model).own_unembedding:
        return [shared_VD] * count
    return [shared_VD] + [head.weight for head in model.mtp_heads.values()]


def unembedding_scale(model: "WMTP", k: int) -> float:
    """Share of head k's gradient that its unembedding gets: `s` if it is head 0's.

    0 where that never learns (`heads.only`).
    """
    if k > 0 and kind_of(model).own_unembedding:
        return 1.0
    if model.cfg.heads.only:
        return 0.0
    return 1.0 if k == 0 else model.cfg.heads.trunk_gradient_scale


def kind_of(model: "WMTP") -> HeadType:
    """The type of the model's heads k >= 1."""
    return HEAD_TYPES[model.cfg.heads.type]


def _scale_gradient(x: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return x
    return scale * x + (1 - scale) * x.detach()


@torch.no_grad()
def start_heads(model: "WMTP") -> None:
    """Copies what new heads start as copies of; other types start at random."""
    for head in model.mtp_heads.values():
        STARTS.get(model.cfg.heads.type, lambda head, model: None)(head, model)


def _start_linear(head: nn.Linear, model: "WMTP") -> None:
    if model.cfg.heads.linear_start == "unembedding":
        head.weight.copy_(model.unembed_VD)


def _start_block(head: BlockHead, model: "WMTP") -> None:
    head.block.load_state_dict(model.last_layer[0].state_dict())
    head.norm.load_state_dict(model.final_norm[0].state_dict())


STARTS: dict[str, Callable[[Any, "WMTP"], None]] = {
    "linear": _start_linear,
    "block": _start_block,
}
