"""What a step computed, and how fast: tokens, FLOPs, the share of a device's peak.

Axes: A micro-batches, B rows, L positions, K heads, V vocabulary, D width.
"""

from collections.abc import Sequence

import numpy as np

from shared.algorithms import needs_nll
from shared.config.fields import Config
from shared.config.model import ModelConfig
from shared.data.batches import Batch
from shared.head_types import HEAD_TYPES

# Dense bfloat16 FLOPs a second, from NVIDIA's data sheets (half of what they give with
# sparsity); by a part of the device's name, the longer ones first.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}


def trunk_flops(model: ModelConfig, lengths: Sequence[int] | np.ndarray) -> float:
    """Of one forward pass over documents of these lengths.

        layers * sum(2 numbers n + 4 N H n (n + 1) / 2)

    2 for each of the numbers in a block's matrices (one multiply-add) and position; 4 H
    for each pair of positions that attend (causal, within the document) in each of the
    N attention heads.
    """
    n = np.asarray(lengths, np.float64)
    pairs = float(np.sum(n * (n + 1) / 2))
    attention = 4.0 * model.H * model.num_attention_heads * pairs
    numbers = 2 * model.H * (model.num_attention_heads + model.kv_heads)
    numbers = model.width * (numbers + (3 if model.is_rotary else 2) * model.F)
    layer = 2.0 * numbers * float(n.sum()) + attention
    return model.num_layers * layer


def head_flops(
    cfg: Config, lengths: Sequence[int] | np.ndarray, rows: float, scored: float = 0
) -> float:
    """Of forward and backward pass of all heads.

    6 D V for each row that weighs something, 2 D V for one that is scored and then
    dropped, and three times what a head k >= 1 computes before its unembedding. With
    `heads.only` a row costs 4 D V: its unembedding, or its state, has no gradient; nor
    has what a head reads, which spares one matrix (of a block: its attention's first).

    Args:
      rows: that weigh something, of all heads together (with `heads.only` k >= 1).
      scored: those that only their nll or their argmax is asked of.
    """
    model, only = cfg.model, cfg.heads.only
    D, tokens = model.width, float(np.sum(lengths))
    row = HEAD_TYPES[cfg.heads.type]
    before = 3 * 2.0 * row.numbers_before(D) * tokens
    if row.copies_block:
        before += 3 * trunk_flops(model, lengths) / model.num_layers
    if only:
        first = (model.num_attention_heads + 2 * model.kv_heads) * model.H
        first = first if row.copies_block else D * bool(row.numbers_before(D))
        before -= 2.0 * D * first * tokens
    product = 2.0 * D * model.vocab_size
    each = 2 if only else 3
    return (cfg.heads.count - 1) * before + product * (each * rows + scored)


def lengths_of(batch: Batch) -> np.ndarray:
    """Tokens of each document of a batch."""
    document_RL = batch.document_BL.reshape(-1, batch.document_BL.shape[-1])
    lengths = np.concatenate([np.bincount(row)[1:] for row in document_RL])
    return lengths[lengths > 0]


def step_flops(cfg: Config, batch: Batch, rows_K: Sequence[float]) -> float:
    """Of the matrix products that a training step over `[A, B, L]` asks for.

    Args:
      rows_K: rows of each head that weighed something.
    """
    lengths, targets = lengths_of(batch), float(np.sum(batch.target_BL))
    trunk, rows, scored = trunk_flops(cfg.model, lengths), float(sum(rows_K)), 0.0
    if cfg.heads.only:  # head 0's rows have no gradient, however often they are read
        times = needs_nll(cfg) + (cfg.heads.target == "self")
        scored = times * targets + float(rows_K[0])
        return trunk + head_flops(cfg, lengths, rows - float(rows_K[0]), scored)
    if needs_nll(cfg):
        scored = max(0.0, targets - float(rows_K[0]))
    return 3 * trunk + head_flops(cfg, lengths, rows, scored)


def peak_flops(device_kind: str, dtype: str, devices: int) -> float | None:
    """FLOPs a second of so many devices at their best; None where it is not known."""
    for name, peak in PEAKS.items():
        if name in device_kind and dtype == "bfloat16":
            return peak * devices
    return None


def throughput(
    cfg: Config,
    batch: Batch,
    metrics: dict[str, float],
    seconds: float,
    peak: float | None,
) -> dict[str, float]:
    """`tokens_per_s`, `tflops_per_s`, and `mfu` where the device's peak is known.

        mfu = FLOPs of the step / (seconds * peak)

    FLOPs are those of the products that are needed, of real tokens and of rows that
    weigh something; what rematerialisation computes again does not count (model FLOPs
    utilisation, arXiv 2204.02311, appendix B).

    Args:
      metrics: of the step, with `rows_head_k`.
    """
    rows_K = [metrics[f"rows_head_{k}"] for k in range(cfg.heads.count)]
    speed = step_flops(cfg, batch, rows_K) / seconds
    tokens = float(np.sum(batch.document_BL > 0))
    found = {"tokens_per_s": tokens / seconds, "tflops_per_s": speed / 1e12}
    return found if peak is None else found | {"mfu": speed / peak}
