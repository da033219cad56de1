"""What the benchmarks compute: shapes of models, and rows, random or of a data set.

Axes: A micro-batches, B rows, L positions.
"""

import argparse
from dataclasses import replace

import numpy as np

from shared.config.fields import Config
from shared.data.batches import Batch, TrainBatches
from shared.data.documents import Split, load_splits
from shared.run.command_line import parse
from shared.run.freed_memory import use_one_heap
from shared.run.inputs import read_tokenizer

ALGOS = ("baseline", "rho1-weighted", "rho1-tokenskip", "critic")
LLAMA = [
    *("--model", "tiny", "--model.family", "llama", "--model.activation", "silu"),
    *("--model.no-qkv-bias", "--model.no-out-bias", "--model.no-mlp-bias"),
    *("--model.max-positions", "8192"),
]
SHAPES = {
    "tiny": ["--model", "tiny"],
    "tiny-8192": LLAMA,
    "distilgpt2": ["--model", "distilgpt2-shape"],
    "smollm2-135m": [
        *(*LLAMA, "--model.num-layers", "30", "--model.width", "576"),
        *("--model.num-attention-heads", "9", "--model.num-kv-heads", "3"),
        *("--model.ffn-width", "1536", "--model.vocab-size", "49152"),
    ],
    "llama-1b": [
        *(*LLAMA, "--model.num-layers", "16", "--model.width", "2048"),
        *("--model.num-attention-heads", "32", "--model.num-kv-heads", "8"),
        *("--model.ffn-width", "8192", "--model.vocab-size", "128256"),
    ],
}


def parser(description: str, **defaults: object) -> argparse.ArgumentParser:
    """The options that all of these benchmarks have; memory is as in the trainers."""
    use_one_heap()
    made = argparse.ArgumentParser(description=description.splitlines()[0])
    made.add_argument("--shape", choices=tuple(SHAPES), default="distilgpt2")
    made.add_argument(
        "--data",
        default="synthetic",
        help="synthetic (dense random rows), or what the trainers' --data takes: mbpp, "
        "a folder, ...",
    )
    made.add_argument("--tokenizer", default="", help="folder, where --data is text")
    made.add_argument("--batch", type=int, default=4, help="rows B")
    made.add_argument("--length", type=int, default=256, help="positions L")
    made.add_argument("--heads", type=int, default=4, help="K, head 0 included")
    made.add_argument("--head-type", default="linear")
    made.add_argument("--device", default="auto")
    made.add_argument("--dtype", default="float32")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--json", help="also write the rows to this file")
    made.set_defaults(**defaults)
    return made


def config(asked: argparse.Namespace, algo: str = "baseline") -> Config:
    """The trainer's config of what was asked for."""
    options = [
        *SHAPES[asked.shape],
        *("--algo", algo, "--heads", str(asked.heads)),
        *("--head-type", asked.head_type),
        *("--device", asked.device, "--machine.dtype", asked.dtype),
        *("--data.max-length", str(asked.length)),
        *("--data.batch-size", str(asked.batch)),
    ]
    if asked.data != "synthetic":
        options += ["--data", asked.data]
    if asked.tokenizer:
        options += ["--data.tokenizer", asked.tokenizer]
    cfg, _ = read_tokenizer(parse(options, "benchmarks").config)
    return cfg


def title(asked: argparse.Namespace, rate: float | None = None) -> str:
    """What a table is about, for the line above it."""
    import jax

    text = (
        f"{asked.shape}, {asked.heads} {asked.head_type} heads, {asked.data}, "
        f"{asked.batch} x {asked.length}, {asked.dtype}, jax {jax.__version__} on "
        f"{jax.devices()[0].device_kind}"
    )
    if rate is not None:
        text += f"; products run at {rate / 1e9:.0f} GFLOP/s"
    return text


def train_split(cfg: Config) -> Split:
    """The documents of the training split of `--data`."""
    _, tokenizer = read_tokenizer(cfg)
    return load_splits(cfg.data, tokenizer, splits=["train"])["train"]


def rows_of(cfg: Config, split: Split, steps: int, layout: str) -> list[Batch]:
    """The first training batches `[1, B, L]` of a split, packed or padded.

    Signals are drawn at random: what they say plays no part in what a step costs.
    """
    rng = np.random.default_rng(0)
    documents = split.documents
    columns = {
        "ref_nll": [rng.gamma(8, 1.2, len(d.tokens)) * d.target for d in documents],
        "reward": rng.normal(size=(len(documents), 1)),
    }
    batches = TrainBatches(
        split,
        columns,
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        accumulation=1,
        layout=layout,
        seed=0,
    )
    return [next(batches) for _ in range(min(steps, batches.steps_per_epoch(0)))]


def dense_batch(cfg: Config, seed: int = 0) -> Batch:
    """`[1, B, L]`: one document a row, no padding, signals drawn at random."""
    rng = np.random.default_rng(seed)
    shape = (1, cfg.data.batch_size, cfg.data.max_length)
    target_BL = np.ones(shape, bool)
    target_BL[..., 0] = False
    columns = np.broadcast_to(np.arange(shape[2], dtype=np.int32), shape)
    reward = np.broadcast_to(rng.normal(size=shape[:2])[..., None], shape)
    signals = {
        "ref_nll": (target_BL * rng.gamma(8, 1.2, shape)).astype(np.float32),
        "reward": reward.astype(np.float32),
    }
    return Batch(
        tokens_BL=rng.integers(0, cfg.model.vocab_size, shape).astype(np.int32),
        document_BL=np.ones(shape, np.int32),
        positions_BL=columns.copy(),
        target_BL=target_BL,
        signals=signals,
        noise_BL=rng.normal(size=shape).astype(np.float32),
        permutation_BL=columns.copy(),
        num_documents=1,
    )


def batches_of(
    asked: argparse.Namespace, cfg: Config, layout: str, steps: int = 8
) -> list[Batch]:
    """What was asked for: dense random rows, or those of a data set."""
    if asked.data == "synthetic":
        return [dense_batch(cfg)]
    return rows_of(cfg, train_split(cfg), steps, layout)


def with_rows(cfg: Config, batch_size: int, max_length: int) -> Config:
    """The same config over other rows."""
    data = replace(cfg.data, batch_size=batch_size, max_length=max_length)
    return replace(cfg, data=data)
