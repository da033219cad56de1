"""Unembedding and nll over rows, block by block, with the gradient in the same pass.

Weights are known before the heads run, so a block's logits are turned into its gradient
at once and never kept: one `[rows, V]` block is alive at a time, in no autograd graph.

Axes: R rows (positions with a weight above 0), D width, V vocabulary.
"""

import torch
from torch import Tensor

# Rows of one block of logits, far below `device.MOST_ROWS`, and its bytes in float32:
# the more, the fewer passes over an unembedding and its gradient.
MOST_ROWS = 1024
LOGITS_BYTES = 256 * 1024**2


def kept_rows(kept: Tensor) -> Tensor:
    """Indices of the True rows, in order, `[R]` int64; waits for the device."""
    return torch.nonzero(kept.reshape(-1)).squeeze(1)


def block_rows(positions: int, vocab_size: int) -> int:
    """Rows of a block of logits, for a micro-batch of so many positions."""
    return max(1, min(MOST_ROWS, LOGITS_BYTES // (4 * vocab_size), positions))


@torch.no_grad()
def nll_rows(
    states_RD: Tensor,
    unembed_VD: Tensor,
    targets_R: Tensor,
    factor_R: Tensor | None = None,
    *,
    block: int,
    scale: float = 1.0,
    of_states: bool = True,
    rounded: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Negative log-likelihood of each row's target, in nats, and its gradient.

        nll[r] = logsumexp_v(states[r] @ unembed[v]) - states[r] @ unembed[targets[r]]
        d nll[r] / d logits = softmax - one at the target

    Args:
      factor_R: weight of a row in a sum; with it the gradient of `sum(factor * nll)` is
        added to `unembed_VD.grad`, and returned for the states.
      block: rows of one block of logits (`block_rows`).
      scale: of that gradient where it is added to `unembed_VD.grad`; at 0 its product
        is spared.
      of_states: whether the gradient for the states is wanted; a product is spared
        without.
      rounded: whether the factors of products are rounded to bfloat16 first.

    Returns:
      `nll_R` in float32 (float64 for float64 states), and `gradient_RD` in the states'
      dtype, or None where it is not wanted.
    """
    R, dtype = states_RD.shape[0], states_RD.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    nll_R = torch.empty(R, dtype=wide, device=states_RD.device)
    of_states = of_states and factor_R is not None
    gradient_RD = torch.empty_like(states_RD) if of_states else None
    matrix_VD = _factor(unembed_VD.detach(), dtype, rounded)
    for start in range(0, R, block):
        rows = slice(start, min(start + block, R))
        count = rows.stop - start
        block_RD = _padded(states_RD[rows], block)
        target_R1 = _padded(targets_R[rows], block)[:, None]
        logits_RV = _factor(block_RD, dtype, rounded) @ matrix_VD.T
        log_RV = _log_softmax(logits_RV.to(wide))
        nll_R[rows] = -log_RV.gather(1, target_R1)[:count, 0]
        if factor_R is None or (gradient_RD is None and scale == 0):
            continue
        share_RV = log_RV.exp_()
        share_RV.scatter_add_(1, target_R1, share_RV.new_full(target_R1.shape, -1.0))
        share_RV = _factor(share_RV, dtype, rounded)
        # Factors scale rows of width D, not V.
        factor_R1 = _padded(factor_R[rows], block)[:, None].to(wide)
        if gradient_RD is not None:
            found_RD = (share_RV @ matrix_VD).to(wide).mul_(factor_R1)
            gradient_RD[rows] = found_RD[:count].to(dtype)
        if scale == 0:
            continue
        weighed_RD = _factor(block_RD.to(wide) * factor_R1, dtype, rounded)
        _add_product(unembed_VD, share_RV.T, weighed_RD, scale)
    return nll_R, gradient_RD


@torch.no_grad()
def best_tokens(
    states_RD: Tensor, unembed_VD: Tensor, *, block: int, rounded: bool = False
) -> Tensor:
    """The token that a head would say at each row: `argmax_v states @ unembed[v]`."""
    R, dtype = states_RD.shape[0], states_RD.dtype
    token_R = torch.empty(R, dtype=torch.int64, device=states_RD.device)
    matrix_VD = _factor(unembed_VD.detach(), dtype, rounded)
    for start in range(0, R, block):
        rows = slice(start, min(start + block, R))
        block_RD = _factor(_padded(states_RD[rows], block), dtype, rounded)
        logits_RV = block_RD @ matrix_VD.T
        token_R[rows] = logits_RV.argmax(dim=1)[: rows.stop - start]
    return token_R


@torch.no_grad()
def rank_rows(
    states_RD: Tensor,
    unembed_VD: Tensor,
    targets_R: Tensor,
    *,
    block: int,
    rounded: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """How a head holds each row's target: `(nll_R, right_R, rank_R)`.

    Returns:
      Nll in nats; whether the target is the first of the most probable tokens; how many
      tokens are more probable, and 1.
    """
    dtype = states_RD.dtype
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    matrix_VD = _factor(unembed_VD.detach(), dtype, rounded)
    found = []
    for start in range(0, states_RD.shape[0], block):
        block_RD = _factor(
            _padded(states_RD[start : start + block], block), dtype, rounded
        )
        own_R = targets_R[start : start + block]
        target_R1 = _padded(own_R, block)[:, None]
        logits_RV = (block_RD @ matrix_VD.T).to(wide)
        right_R = logits_RV.argmax(dim=1) == target_R1[:, 0]
        rank_R = 1 + (logits_RV > logits_RV.gather(1, target_R1)).sum(dim=1)
        nll_R = -_log_softmax(logits_RV).gather(1, target_R1)[:, 0]
        found.append([x[: own_R.shape[0]] for x in (nll_R, right_R, rank_R)])
    nll_R, right_R, rank_R = (torch.cat(parts) for parts in zip(*found, strict=True))
    return nll_R, right_R, rank_R


def _add_product(unembed_VD: Tensor, a_VR: Tensor, b_RD: Tensor, scale: float) -> None:
    """Adds `scale * a @ b` to the gradient; the first one needs no zeros."""
    if unembed_VD.grad is None:
        product_VD = (a_VR @ b_RD).to(unembed_VD.dtype)
        unembed_VD.grad = product_VD if scale == 1 else product_VD.mul_(scale)
    elif unembed_VD.dtype == a_VR.dtype:
        unembed_VD.grad.addmm_(a_VR, b_RD, alpha=scale)
    else:
        unembed_VD.grad.add_(a_VR @ b_RD, alpha=scale)


def _log_softmax(logits_RV: Tensor) -> Tensor:
    """In the logits' own memory on a CPU, row by row in its cache."""
    in_place = logits_RV if logits_RV.device.type == "cpu" else None
    return torch.log_softmax(logits_RV, dim=1, out=in_place)


def _factor(x: Tensor, dtype: torch.dtype, rounded: bool) -> Tensor:
    """A factor of a product: in the products' dtype, maybe rounded to bfloat16."""
    return (x.to(torch.bfloat16) if rounded else x).to(dtype)


def pads(device: torch.device) -> bool:
    """Whether a last, shorter block is filled up."""
    return device.type == "mps"


def _padded(x: Tensor, rows: int) -> Tensor:
    """Rows of 0 added on MPS, where every new shape is compiled and kept in memory."""
    missing = rows - x.shape[0]
    if missing <= 0 or not pads(x.device):
        return x
    return torch.cat([x, x.new_zeros((missing, *x.shape[1:]))])
