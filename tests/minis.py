"""The MBPP minis as batches, and small configs for them; no backend.

Axes: B rows, L positions, A micro-batches.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import dropwhile

import numpy as np

from shared.config.fields import (
    Config,
    DataConfig,
    HeadsConfig,
    ModelConfig,
    OptimizerConfig,
    WeightingConfig,
)
from shared.data.batches import Batch, TrainBatches
from shared.data.documents import load_splits
from shared.data.tokenizer import load_tokenizer
from shared.head_types import HEAD_TYPES as ROWS

ALGOS = ("baseline", "rho1-weighted", "rho1-tokenskip", "critic")
HEAD_TYPES = tuple(ROWS)
RULES = {
    "uniform": {"rule": "uniform"},
    "skip": {"rule": "skip"},
    "soft over documents": {"rule": "soft", "scope": "document"},
    "soft over windows": {"rule": "soft", "scope": "window"},
}
K, L = 3, 480
HEAD_WEIGHT = (1.0, 0.5, 0.25)
ROTARY = {"num_kv_heads": 1, "ffn_width": 48, "activation": "silu", "out_bias": False}
FAMILIES = {
    "gpt2": {},
    "llama": ROTARY | {"qkv_bias": False, "mlp_bias": False, "tie_embeddings": False},
    "qwen2": ROTARY | {"qkv_bias": True, "mlp_bias": False},
}


def config(
    algo: str,
    head_type: str,
    rule: str,
    dtype: str = "float32",
    family: str = "gpt2",
) -> Config:
    """A small model over bytes whose rows hold whole minis."""
    model = ModelConfig(
        family=family,
        num_layers=2,
        width=32,
        num_attention_heads=2,
        max_positions=L,
        vocab_size=load_tokenizer("bytes").vocab_size,
        **FAMILIES[family],
    )
    cfg = Config(
        algo=algo,
        model=model,
        heads=HeadsConfig(count=K, type=head_type, weight=HEAD_WEIGHT),
        data=DataConfig(max_length=L, batch_size=2),
        weighting=WeightingConfig(**RULES.get(rule, {})),
        optimizer=OptimizerConfig(lr=1e-3, value_lr_scale=1.0),
    )
    return replace(cfg, machine=replace(cfg.machine, dtype=dtype))


@cache
def minis(layout: str, steps: int = 1) -> list[Batch]:
    """Steps `[A, B, L]` of the MBPP minis, NumPy, with signals drawn at random."""
    cfg = config("baseline", "linear", "uniform").data
    split = load_splits(cfg, load_tokenizer("bytes"), splits=("train",))["train"]
    rng = np.random.default_rng(0)
    columns = {
        "ref_nll": [
            (rng.gamma(8, 0.5, len(d.tokens)) * d.target).astype(np.float32)
            for d in split.documents
        ],
        "reward": rng.normal(size=(len(split.documents), 1)).astype(np.float32),
    }
    batches = TrainBatches(
        split,
        columns,
        max_length=L,
        batch_size=cfg.batch_size,
        accumulation=1,
        layout=layout,
        seed=3,
    )
    coming: Iterator[Batch] = batches
    if layout == "packed":  # from the first step on that has two documents in a row
        coming = dropwhile(lambda batch: batch.document_BL.max() == 1, batches)
    # One S for both layouts: JAX then compiles one program for both.
    return [replace(next(coming), num_documents=4) for _ in range(steps)]


def first(layout: str, dtype: str) -> Batch:
    """The first micro-batch `[B, L]`, its numbers in the dtype."""
    return minis(layout)[0].changed(lambda x: cast(x[0], dtype))


def cast(x: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers in what a run of this `machine.dtype` keeps them in."""
    kept = "float32" if dtype == "bfloat16" else dtype
    return x.astype(kept) if np.issubdtype(x.dtype, np.floating) else x


def gap(a, b) -> float:
    """Largest difference over the largest number of the two."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    return float(np.abs(a - b).max(initial=0) / scale) if scale else 0.0
