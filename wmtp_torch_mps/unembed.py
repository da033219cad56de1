"""Unembedding and nll over rows, block by block, with the gradient in the same pass.

Weights are known before the heads run, so a block's logits are turned into its gradient
at once and never kept: one `[rows, V]` block is alive at a time, in no autograd graph.

Axes: R rows (positions with a weight above 0), D width, V vocabulary.
"""

import torch
from torch import Tensor

# At most this many rows in one product, far below `device.MOST_ROWS`.
BLOCK_ROWS = 512


def kept_rows(kept: Tensor) -> Tensor:
    """Indices of the True rows, in order, `[R]` int64; waits for the device."""
    return torch.nonzero(kept.reshape(-1)).squeeze(1)


@torch.no_grad()
def nll_rows(
    states_RD: Tensor,
    unembed_VD: Tensor,
    targets_R: Tensor,
    factor_R: Tensor | None = None,
    *,
    scale: float = 1.0,
    block_rows: int = BLOCK_ROWS,
) -> tuple[Tensor, Tensor | None]:
    """Negative log-likelihood of each row's target, in nats, and its gradient.

        nll[r] = logsumexp_v(states[r] @ unembed[v]) - states[r] @ unembed[targets[r]]

    Args:
      factor_R: weight of a row in a sum; with it the gradient of `sum(factor * nll)` is
        added to `unembed_VD.grad`, and returned for the states.
      scale: of that gradient where it is added to `unembed_VD.grad`.
      block_rows: rows of one block of logits.

    Returns:
      `nll_R` in float32 (float64 for float64 states), and `gradient_RD` in the states'
      dtype, or None without factors.
    """
    R = states_RD.shape[0]
    wide = torch.float64 if states_RD.dtype == torch.float64 else torch.float32
    nll_R = torch.empty(R, dtype=wide, device=states_RD.device)
    gradient_RD = torch.empty_like(states_RD) if factor_R is not None else None
    if factor_R is not None and unembed_VD.grad is None:
        unembed_VD.grad = torch.zeros_like(unembed_VD)
    matrix_VD = unembed_VD.to(states_RD.dtype)
    for start in range(0, R, block_rows):
        rows = slice(start, min(start + block_rows, R))
        block_RD = _padded(states_RD[rows], block_rows)
        target_R1 = _padded(targets_R[rows], block_rows)[:, None]
        logits_RV = (block_RD @ matrix_VD.T).to(wide)
        norm_R1 = torch.logsumexp(logits_RV, dim=1, keepdim=True)
        found_R1 = norm_R1 - logits_RV.gather(1, target_R1)
        nll_R[rows] = found_R1[: rows.stop - start, 0]
        if factor_R is None or gradient_RD is None:
            continue
        # d nll / d logits = softmax - one at the target, in the logits' own memory.
        share_RV = logits_RV.sub_(norm_R1).exp_()
        share_RV.scatter_add_(1, target_R1, torch.full_like(norm_R1, -1.0))
        share_RV.mul_(_padded(factor_R[rows], block_rows)[:, None].to(wide))
        narrow_RV = share_RV.to(states_RD.dtype)
        gradient_RD[rows] = (narrow_RV @ matrix_VD)[: rows.stop - start]
        if unembed_VD.dtype == states_RD.dtype:
            unembed_VD.grad.addmm_(share_RV.T, block_RD, alpha=scale)
        else:
            unembed_VD.grad.add_(narrow_RV.T @ block_RD, alpha=scale)
    return nll_R, gradient_RD


def pads(device: torch.device) -> bool:
    """Whether a last, shorter block is filled up."""
    return device.type == "mps"


def _padded(x: Tensor, rows: int) -> Tensor:
    """Rows of 0 added on MPS, where every new shape is compiled and kept in memory."""
    missing = rows - x.shape[0]
    if missing <= 0 or not pads(x.device):
        return x
    return torch.cat([x, x.new_zeros((missing, *x.shape[1:]))])
