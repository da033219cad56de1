"""What a run reads before it makes anything: tokenizer, splits, devices, batches."""

import sys
from dataclasses import dataclass, replace

import jax

from shared.batches import Batch, Columns, TrainBatches, eval_batches
from shared.config import Config
from shared.data import Split, load_splits
from shared.tokenizer import Tokenizer, load_tokenizer
from wmtp_jax import sharding
from wmtp_jax.reference import Reference, find_named


@dataclass(frozen=True)
class Inputs:
    """Everything read before a run folder is made: bad input leaves nothing behind."""

    cfg: Config
    tokenizer: Tokenizer
    splits: dict[str, Split]
    mesh: jax.sharding.Mesh


def read_inputs(cfg: Config) -> Inputs:
    """Tokenizer, splits and devices of a config, checked."""
    tokenizer = load_tokenizer(cfg.data.tokenizer)
    if cfg.model.vocab_size == 0:
        model = replace(cfg.model, vocab_size=tokenizer.vocab_size)
        cfg = replace(cfg, model=model)
    if cfg.model.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size must be at least the tokenizer's "
            f"{tokenizer.vocab_size}, got {cfg.model.vocab_size}"
        )
    if cfg.needs_reference and cfg.reference.run:
        find_named(cfg)
    names = ("train", "validation") + (("reference",) if needs_training(cfg) else ())
    mesh = sharding.make_mesh(cfg)
    return Inputs(cfg, tokenizer, load_splits(cfg.data, tokenizer, splits=names), mesh)


def needs_training(cfg: Config) -> bool:
    """Whether a reference has to be trained first."""
    return cfg.needs_reference and not cfg.reference.run


def make_batches(
    cfg: Config, splits: dict[str, Split], reference: Reference | None
) -> tuple[TrainBatches, list[Batch]]:
    """Training batches for ever, and the validation split in length buckets."""

    def columns(name: str) -> Columns:
        return reference.columns(name) if reference else Columns.zeros(splits[name])

    train = TrainBatches(
        splits["train"],
        columns("train"),
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        accumulation=cfg.train.accumulation,
        layout=cfg.data.layout,
        seed=cfg.seed,
    )
    validation, _ = eval_batches(
        splits["validation"],
        columns("validation"),
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
    )
    return train, validation


def count_steps(cfg: Config, train: TrainBatches) -> int:
    """Updates of the whole run: all epochs, or `max_steps` if that is fewer."""
    limit = cfg.train.max_steps or sys.maxsize
    total = 0
    for epoch in range(cfg.train.epochs):
        total += train.steps_per_epoch(epoch)
        if total >= limit:
            return limit
    return total
