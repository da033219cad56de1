"""Exact attention whose memory grows with L: no array of `[L, L]`, nor its gradient.

    score[q, k] = scale * query[q] . key[k]       where start[q] <= k <= q
    out[q]      = sum_k softmax_k(score[q, k]) value[k]

On a CPU in float32 torch's own kernel does it, a document at a time: it holds a piece
of the scores and, told of no mask, leaves out what is above the diagonal. On mps there
is no such kernel, and on a CPU it is slow in bfloat16 (small products). There a block
of queries meets one block of keys after the other: the largest score and the sum of
exponentials so far make the softmax whole (Milakov and Gimelshein, arXiv 1805.02867),
and the backward pass makes every block of scores again (Dao et al., arXiv 2205.14135).
`wmtp_jax/block_attention.py` is the same.

Axes: B rows, L positions, N query heads, M key and value heads, G = N / M, H width of a
head, Q positions of a block, X = G * Q queries of a block that share their keys.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.amp import is_autocast_available
from torch.nn import functional

from wmtp_torch_mps.precision import rounds_products

NAME = "wmtp_blocks"  # among the kinds of attention of `transformers`
BLOCK = 256  # positions, at most; smaller ones are many small operators on mps


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch stand.

    Attributes:
      start_BL: where the document of a position begins in its row; a padding position
        is a document by itself.
      spans: of each row, where its documents begin and end, without padding.
      rounded: whether a CPU rounds products to bfloat16.
    """

    start_BL: Tensor = field(repr=False)
    spans: list[list[tuple[int, int]]] = field(repr=False)
    rounded: bool


def find_documents(document_BL: Tensor, dtype: str) -> Documents:
    """Of numbers on the device, which the host waits for once a pass.

    Args:
      document_BL: 0 for padding; the tokens of a document stand together.
      dtype: `machine.dtype`.
    """
    numbers_BL = document_BL.cpu().numpy()
    before_BL = np.pad(numbers_BL, ((0, 0), (1, 0)))[:, :-1]
    first_BL = (numbers_BL != before_BL) | (numbers_BL == 0)
    index_L = np.arange(numbers_BL.shape[1])
    start_BL = np.maximum.accumulate(np.where(first_BL, index_L, 0), axis=1)
    spans = []
    for numbers_L, first_L in zip(numbers_BL, first_BL, strict=True):
        cuts = pairwise([*np.flatnonzero(first_L).tolist(), len(index_L)])
        spans.append([(begin, end) for begin, end in cuts if numbers_L[begin]])
    start = torch.from_numpy(start_BL).to(document_BL.device)
    return Documents(start, spans, rounds_products(document_BL.device, dtype))


def register() -> str:
    """Makes it known to `transformers`, under the name that is returned."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _of_transformers)
    return NAME


def _of_transformers(
    module: Any,
    q_BNLH: Tensor,
    k_BMLH: Tensor,
    v_BMLH: Tensor,
    attention_mask: Tensor,
    *,
    documents: Documents,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """As its models call what they attend with: `(out_BLNH, None)`."""
    if dropout:
        raise ValueError(f"attention in blocks drops nothing, got {dropout}")
    out_BNLH = attend(q_BNLH, k_BMLH, v_BMLH, documents, scaling)
    return out_BNLH.transpose(1, 2).contiguous(), None


def attend(
    q_BNLH: Tensor,
    k_BMLH: Tensor,
    v_BMLH: Tensor,
    documents: Documents,
    scale: float,
) -> Tensor:
    """`out_BNLH`, each query over the keys from its document's start up to itself.

    Softmax and sums are float32, or float64 of float64, whatever is multiplied.
    """
    device = q_BNLH.device.type
    if device == "cpu" and not documents.rounded:
        return _by_document(q_BNLH, k_BMLH, v_BMLH, documents, scale)
    dtype = q_BNLH.dtype
    if is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    qkv = (x.to(dtype) for x in (q_BNLH, k_BMLH, v_BMLH))
    return _Blocks.apply(*qkv, documents.start_BL, scale, _first_blocks(documents))


def _by_document(
    q_BNLH: Tensor,
    k_BMLH: Tensor,
    v_BMLH: Tensor,
    documents: Documents,
    scale: float,
) -> Tensor:
    """A call of torch's kernel for each document; padding sees itself alone."""
    shared = q_BNLH.shape[1] // k_BMLH.shape[1]
    k_BNLH, v_BNLH = (x.repeat_interleave(shared, dim=1) for x in (k_BMLH, v_BMLH))
    rows = []
    for b, spans in enumerate(documents.spans):
        parts, done = [], 0
        for begin, end in [*spans, (q_BNLH.shape[2],) * 2]:
            if begin > done:
                parts.append(v_BNLH[b : b + 1, :, done:begin])
            qkv = (x[b : b + 1, :, begin:end] for x in (q_BNLH, k_BNLH, v_BNLH))
            if end > begin:
                parts.append(
                    functional.scaled_dot_product_attention(
                        *qkv, is_causal=True, scale=scale
                    )
                )
            done = end
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows)


def _first_blocks(documents: Documents) -> list[int]:
    """Of each block of queries, the first block of keys that one of them may see."""
    L = documents.start_BL.shape[1]
    first_L = np.arange(L)
    for spans in documents.spans:
        for begin, end in spans:
            first_L[begin:end] = np.minimum(first_L[begin:end], begin)
    return [int(first_L[i : i + BLOCK].min()) // BLOCK for i in range(0, L, BLOCK)]


class _Blocks(torch.autograd.Function):
    """`out_BNLH` of queries, keys, values, starts, the scale and the first blocks."""

    @staticmethod
    def forward(ctx, q_BNLH, k_BMLH, v_BMLH, start_BL, scale, first_blocks):
        with _as_given(q_BNLH.device.type):
            q_BMGLH = _by_keys(q_BNLH, k_BMLH.shape[1])
            out_BMGLH = torch.empty_like(q_BMGLH)
            total_BMGL = torch.empty(
                q_BMGLH.shape[:4], dtype=_wide(q_BNLH), device=q_BNLH.device
            )
            for i, first in enumerate(first_blocks):
                here = _block(i)
                q_BMXH = (q_BMGLH[:, :, :, here] * scale).flatten(2, 3)
                out_BMXH, total_BMX = _of_queries(
                    q_BMXH, k_BMLH, v_BMLH, start_BL, i, first
                )
                out_BMGLH[:, :, :, here] = out_BMXH.unflatten(2, (q_BMGLH.shape[2], -1))
                total_BMGL[:, :, :, here] = total_BMX.unflatten(
                    2, (q_BMGLH.shape[2], -1)
                )
        ctx.save_for_backward(q_BNLH, k_BMLH, v_BMLH, start_BL, out_BMGLH, total_BMGL)
        ctx.scale, ctx.first_blocks = scale, first_blocks
        return out_BMGLH.flatten(1, 2)

    @staticmethod
    def backward(ctx, d_out_BNLH):
        q_BNLH, k_BMLH, v_BMLH, start_BL, out_BMGLH, total_BMGL = ctx.saved_tensors
        dtype, wide = q_BNLH.dtype, _wide(q_BNLH)
        with _as_given(q_BNLH.device.type):
            q_BMGLH, d_out_BMGLH = (
                _by_keys(x, k_BMLH.shape[1]) for x in (q_BNLH, d_out_BNLH)
            )
            # sum_k p[k] d_p[k], without p: the same as out . d_out.
            own_BMGL = (out_BMGLH.to(wide) * d_out_BMGLH.to(wide)).sum(dim=4)
            dq_BMGLH = torch.empty_like(q_BMGLH)
            dk_BMLH, dv_BMLH = (torch.zeros_like(k_BMLH, dtype=wide) for _ in range(2))
            for i, first in enumerate(ctx.first_blocks):
                here = _block(i)
                q_BMXH = (q_BMGLH[:, :, :, here] * ctx.scale).flatten(2, 3)
                d_out_BMXH = d_out_BMGLH[:, :, :, here].flatten(2, 3)
                own_BMX, total_BMX = (
                    x[:, :, :, here].flatten(2, 3) for x in (own_BMGL, total_BMGL)
                )
                dq_BMXH = torch.zeros_like(q_BMXH, dtype=wide)
                for j in range(first, i + 1):
                    keys = _block(j)
                    k_BMQH, v_BMQH = k_BMLH[:, :, keys], v_BMLH[:, :, keys]
                    s_BMXQ = _scores(q_BMXH, k_BMQH, _hidden(start_BL, i, j))
                    p_BMXQ = s_BMXQ.sub_(total_BMX[..., None]).exp_()
                    d_p_BMXQ = (d_out_BMXH @ v_BMQH.transpose(2, 3)).to(wide)
                    d_s_BMXQ = d_p_BMXQ.sub_(own_BMX[..., None]).mul_(p_BMXQ).to(dtype)
                    p_BMXQ = p_BMXQ.to(dtype)
                    dv_BMLH[:, :, keys] += p_BMXQ.transpose(2, 3) @ d_out_BMXH
                    dk_BMLH[:, :, keys] += d_s_BMXQ.transpose(2, 3) @ q_BMXH
                    dq_BMXH += d_s_BMXQ @ k_BMQH
                dq_BMXH = (dq_BMXH * ctx.scale).to(dtype)
                dq_BMGLH[:, :, :, here] = dq_BMXH.unflatten(2, (q_BMGLH.shape[2], -1))
        dk_BMLH, dv_BMLH = dk_BMLH.to(dtype), dv_BMLH.to(dtype)
        return dq_BMGLH.flatten(1, 2), dk_BMLH, dv_BMLH, None, None, None


def _of_queries(
    q_BMXH: Tensor, k_BMLH: Tensor, v_BMLH: Tensor, start_BL: Tensor, i: int, first: int
) -> tuple[Tensor, Tensor]:
    """`(out_BMXH, total_BMX)` of one block; `total` is the log of the sum of exp."""
    dtype, wide = q_BMXH.dtype, _wide(q_BMXH)
    # On the diagonal every query sees a key, itself: from there on a largest score is
    # a number, and what is hidden has a share of exp(-inf) = 0.
    top_BMX: Any = None
    for j in (i, *range(first, i)):
        k_BMQH, v_BMQH = k_BMLH[:, :, _block(j)], v_BMLH[:, :, _block(j)]
        s_BMXQ = _scores(q_BMXH, k_BMQH, _hidden(start_BL, i, j))
        new_BMX = s_BMXQ.amax(dim=3)
        if top_BMX is not None:
            new_BMX = torch.maximum(top_BMX, new_BMX)
        p_BMXQ = s_BMXQ.sub_(new_BMX[..., None]).exp_()
        more_BMX, more_BMXH = p_BMXQ.sum(dim=3), (p_BMXQ.to(dtype) @ v_BMQH).to(wide)
        if top_BMX is None:
            sum_BMX, mixed_BMXH = more_BMX, more_BMXH
        else:
            kept_BMX = (top_BMX - new_BMX).exp_()
            sum_BMX = sum_BMX * kept_BMX + more_BMX
            mixed_BMXH = mixed_BMXH * kept_BMX[..., None] + more_BMXH
        top_BMX = new_BMX
    return (mixed_BMXH / sum_BMX[..., None]).to(dtype), top_BMX + sum_BMX.log()


def _scores(q_BMXH: Tensor, k_BMQH: Tensor, hidden_BQQ: Tensor) -> Tensor:
    """`s_BMXQ` of queries that have been scaled; -inf where a key is hidden."""
    s_BMXQ = (q_BMXH @ k_BMQH.transpose(2, 3)).to(_wide(q_BMXH))
    Q = hidden_BQQ.shape[1]
    s_BMGQQ = s_BMXQ.unflatten(2, (-1, Q))
    return s_BMGQQ.masked_fill_(hidden_BQQ[:, None, None], -torch.inf).flatten(2, 3)


def _hidden(start_BL: Tensor, i: int, j: int) -> Tensor:
    """`[B, Q, Q]`: which keys of block j the queries of block i may not see."""
    index_L = torch.arange(start_BL.shape[1], device=start_BL.device)
    query_Q, key_Q = index_L[_block(i)], index_L[_block(j)]
    other_BQQ = key_Q[None, None, :] < start_BL[:, _block(i), None]
    return other_BQQ | (key_Q[None, :] > query_Q[:, None])[None]


def _block(i: int) -> slice:
    return slice(i * BLOCK, (i + 1) * BLOCK)


def _by_keys(x_BNLH: Tensor, M: int) -> Tensor:
    """Heads by the keys that they share: `x_BMGLH`."""
    return x_BNLH.unflatten(1, (M, -1))


def _as_given(device: str) -> AbstractContextManager:
    """In which products have the dtype of their factors, as in the backward pass."""
    if is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
