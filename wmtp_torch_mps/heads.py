"""The prediction heads: which state and which unembedding head k reads.

Axes: B rows, L positions, V vocabulary, D width.
"""

from torch import Tensor

from wmtp_torch_mps.model import WMTP, Outputs, computing


def head_states(model: WMTP, outputs: Outputs) -> list[Tensor]:
    """What each of the K heads multiplies with its unembedding: `states_BLD`.

    Head 0 is the trunk state itself. The others read `s * h + (1 - s) * stop(h)` with
    `s = heads.trunk_gradient_scale`.
    """
    heads = model.cfg.heads
    states = [outputs.hidden_BLD]
    scaled_BLD = _scale_gradient(outputs.hidden_BLD, heads.trunk_gradient_scale)
    residual_BLD = _scale_gradient(outputs.residual_BLD, heads.trunk_gradient_scale)
    with computing(model):
        for head in model.mtp_heads.values():
            if heads.type == "linear":
                states.append(scaled_BLD)
            elif heads.type == "residual":
                states.append(head(scaled_BLD))
            else:
                states.append(head(residual_BLD, outputs.positions))
    return states


def unembeddings(model: WMTP) -> list[Tensor]:
    """`W_VD` of each of the K heads; the same one again where heads share it."""
    shared_VD = model.unembed_VD
    if model.cfg.heads.type != "linear":
        return [shared_VD] * model.cfg.heads.count
    return [shared_VD] + [head.weight for head in model.mtp_heads.values()]


def _scale_gradient(x: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return x
    return scale * x + (1 - scale) * x.detach()
