"""What the benchmarks compute: shapes, a dense batch, its FLOPs, the machine's rate.

Axes: A micro-batches, B rows, L positions, K heads, R rows, D width, V vocabulary.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from shared.batches import Batch
from shared.command_line import parse
from shared.config import Config
from shared.freed_memory import keep_freed_memory
from shared.model_config import ModelConfig

ALGOS = ("baseline", "rho1-weighted", "rho1-tokenskip", "critic")
SHAPES = {
    "tiny": ["--model", "tiny"],
    "distilgpt2": ["--model", "distilgpt2-shape"],
    "smollm2-135m": [
        *("--model", "tiny", "--model.family", "llama", "--model.num-layers", "30"),
        *("--model.width", "576", "--model.num-attention-heads", "9"),
        *("--model.num-kv-heads", "3", "--model.ffn-width", "1536"),
        *("--model.vocab-size", "49152", "--model.max-positions", "2048"),
        *("--model.activation", "silu", "--model.no-qkv-bias", "--model.no-out-bias"),
        "--model.no-mlp-bias",
    ],
}


def parser(description: str, **defaults: object) -> argparse.ArgumentParser:
    """The options that all of these benchmarks have; memory is as in the trainers."""
    keep_freed_memory()
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--shape", choices=tuple(SHAPES), default="distilgpt2")
    made.add_argument("--batch", type=int, default=4, help="rows B")
    made.add_argument("--length", type=int, default=256, help="positions L")
    made.add_argument("--heads", type=int, default=4, help="K, head 0 included")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--json", help="also write the rows to this file")
    made.set_defaults(**defaults)
    return made


def config(asked: argparse.Namespace, algo: str = "baseline") -> Config:
    """The trainer's config of a shape, with `linear` heads."""
    options = [
        *SHAPES[asked.shape],
        *("--algo", algo, "--heads", str(asked.heads), "--device", "cpu"),
        *("--data.max-length", str(asked.length)),
        *("--data.batch-size", str(asked.batch), "--data.layout", "padded"),
    ]
    return parse(options, "benchmarks").config


def dense_batch(cfg: Config, seed: int = 0) -> Batch:
    """`[1, B, L]`: one document a row, no padding, signals drawn at random."""
    rng = np.random.default_rng(seed)
    shape = (1, cfg.data.batch_size, cfg.data.max_length)
    target_BL = np.ones(shape, bool)
    target_BL[..., 0] = False
    columns = np.broadcast_to(np.arange(shape[2], dtype=np.int32), shape)
    return Batch(
        tokens_BL=rng.integers(0, cfg.model.vocab_size, shape).astype(np.int32),
        document_BL=np.ones(shape, np.int32),
        positions_BL=columns.copy(),
        target_BL=target_BL,
        ref_nll_BL=(target_BL * rng.gamma(8, 1.2, shape)).astype(np.float32),
        reward_BL=np.broadcast_to(rng.normal(size=shape[:2])[..., None], shape).astype(
            np.float32
        ),
        noise_BL=rng.normal(size=shape).astype(np.float32),
        permutation_BL=columns.copy(),
        num_documents=1,
    )


def matrix_numbers(model: ModelConfig) -> int:
    """Numbers in the trunk's matrices, each one multiply-add a position."""
    attention = model.width * model.H * (2 * model.num_attention_heads)
    attention += model.width * model.H * 2 * model.kv_heads
    ffn = (3 if model.is_rotary else 2) * model.width * model.F
    return model.num_layers * (attention + ffn)


def flops(cfg: Config, batch: Batch) -> float:
    """Of the matrix products that a step cannot do without.

    Trunk: 6 for each number of its matrices and position, and 12 D for each pair of
    positions that attend (causal) in a layer, forward and backward. Heads: 6 D V for
    each row that weighs something; 2 D V more for each row that rho1 scores.
    """
    model = cfg.model
    B, L = batch.tokens_BL.shape[1:]
    total = 6.0 * matrix_numbers(model) * B * L
    total += (
        12.0
        * model.H
        * model.num_attention_heads
        * model.num_layers
        * B
        * (L * (L + 1) / 2)
    )
    targets = [B * (L - 1 - k) for k in range(cfg.heads.count)]
    kept = 1.0 - (cfg.weighting.skip_fraction if cfg.rule == "skip" else 0.0)
    row = 2.0 * model.width * model.vocab_size
    total += 3 * row * kept * sum(targets)
    if cfg.algo.startswith("rho1"):
        total += row * targets[0]
    return total


def gemm_rate(cfg: Config, rows: int) -> float:
    """FLOPs a second of the head's three products over so many rows; the best of 3."""
    D, V = cfg.model.width, cfg.model.vocab_size
    x_RD, w_VD = jnp.ones((rows, D)), jnp.ones((V, D))

    @jax.jit
    def products(x_RD, w_VD):
        logits_RV = x_RD @ w_VD.T
        return logits_RV @ w_VD, logits_RV.T @ x_RD

    jax.block_until_ready(products(x_RD, w_VD))
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        jax.block_until_ready(products(x_RD, w_VD))
        seconds.append(time.perf_counter() - started)
    return 6.0 * rows * D * V / min(seconds)
