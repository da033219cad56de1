"""What a run reads before it makes anything: tokenizer, splits, devices, batches."""

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.data import contamination
from shared.data.batches import Batch, Columns, TrainBatches, eval_batches
from shared.data.documents import Split, load_examples, load_splits
from shared.data.tokenizer import Tokenizer, load_tokenizer
from shared.huggingface.folder import check_model
from shared.run.backend import Backend
from shared.signals.cache import files_digest
from shared.signals.columns import SCORED_SPLITS, Sources
from shared.signals.kept import Signals
from shared.state import run_folder
from shared.state.frozen_models import (
    check_tokenizer,
    find_reference,
    find_reward_model,
)
from shared.state.model_source import check_folder, find_folder, tokenizer_of_run

log = logging.getLogger("wmtp")
SAMPLES = 1000  # texts of a split on which two tokenizers have to agree


@dataclass(frozen=True)
class Inputs:
    """Everything read before a run folder is made: bad input leaves nothing behind.

    Attributes:
      digests: of tokenizer, splits and the files of every model that is named, and
        the backend; what a resumed run must find unchanged, and signals are known by.
      device: what the backend's `find_device` gives.
    """

    cfg: Config
    tokenizer: Tokenizer
    splits: dict[str, Split]
    sources: Sources
    contamination: contamination.Report
    digests: dict[str, str]
    device: Any


def read_inputs(cfg: Config, backend: Backend, resumed: Path | None = None) -> Inputs:
    """Tokenizer, splits, frozen models and devices of a config, checked.

    Args:
      resumed: folder of the run that goes on; it does not need the folder of its model
        any more, if it has a checkpoint.
    """
    digests: dict[str, str] = {}
    if resumed is not None:
        tokenizer = tokenizer_of_run(resumed, cfg)
        digests |= digest_on_resume(resumed, cfg)
    else:
        cfg, tokenizer = read_tokenizer(cfg)
        folder = find_folder(cfg)
        if folder is not None:
            check_model(folder, cfg.model)
            digests["model"] = files_digest(folder)
    device = backend.find_device(cfg)
    examples = load_examples(cfg.data)
    # A run that has kept its signals needs nothing any more that they came from.
    kept = resumed is not None and (resumed / "signals").is_dir()
    needs_training = cfg.needs_reference and not cfg.reference.model and not kept
    names = SCORED_SPLITS + (("reference",) if needs_training else ())
    splits = load_splits(cfg.data, tokenizer, splits=names, examples=examples)
    sources = Sources(None, None, {})
    if kept and resumed is not None:
        digests = run_folder.recorded_inputs(resumed) | digests
    else:
        sources = _find_sources(cfg, backend, tokenizer, examples)
    digests |= {"backend": backend.name, "tokenizer": tokenizer.digest}
    digests |= {name: split.digest for name, split in splits.items()}
    for name in ("reference", "reward"):
        frozen = getattr(sources, name)
        digests |= {f"{name}_model": frozen.identity()} if frozen else {}
    trained_on = {name: examples[name] for name in ("train", "reference")}
    report = contamination.check(trained_on, cfg.data.check_against)
    return Inputs(cfg, tokenizer, splits, sources, report, digests, device)


def digest_on_resume(run: Path, cfg: Config) -> dict[str, str]:
    """Digest of the model's folder; the recorded one where the folder is gone."""
    recorded = run_folder.recorded_inputs(run)
    try:
        folder = find_folder(cfg)
    except ValueError:
        folder = None
        log.warning("%s is gone; the run goes on without it", cfg.model.name)
    if folder is not None:
        return {"model": files_digest(folder)}
    return {"model": recorded["model"]} if "model" in recorded else {}


def read_tokenizer(cfg: Config) -> tuple[Config, Tokenizer]:
    """The tokenizer of a config, and the config with the vocabulary it decides.

    Raises:
      ValueError: if the folder of the model does not fit the config, or the
        vocabulary of the model is smaller than the tokenizer's.
    """
    folder = find_folder(cfg)
    if folder is not None:
        check_folder(cfg, folder)
    own = "bytes" if folder is None else str(folder)
    tokenizer = load_tokenizer(cfg.data.tokenizer or own)
    if cfg.model.vocab_size == 0:
        model = replace(cfg.model, vocab_size=tokenizer.vocab_size)
        cfg = replace(cfg, model=model)
    if cfg.model.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"model.vocab_size must be at least the tokenizer's "
            f"{tokenizer.vocab_size}, got {cfg.model.vocab_size}"
        )
    return cfg, tokenizer


def _find_sources(
    cfg: Config, backend: Backend, tokenizer: Tokenizer, examples: dict[str, Any]
) -> Sources:
    reference = reward = None
    reward_splits = {}
    if cfg.needs_reference and cfg.reference.model:
        reference = find_reference(cfg, backend)
        texts = [
            (f"{name}/{row['id']}", row["prompt"] + row["completion"])
            for name in SCORED_SPLITS
            for row in examples[name].select(range(min(SAMPLES, len(examples[name]))))
        ]
        check_tokenizer(reference, tokenizer, texts)
    if cfg.algo == "critic" and cfg.critic.reward_model:
        reward = find_reward_model(cfg)
        # A reward is one number per text, so its model may cut the text its own way,
        # and which of its tokens are targets plays no part.
        whole = replace(cfg.data, loss_on="all")
        reward_splits = load_splits(
            whole, reward.tokenizer, splits=SCORED_SPLITS, examples=examples
        )
    return Sources(reference, reward, reward_splits)


def make_batches(
    cfg: Config, splits: dict[str, Split], signals: Signals | None
) -> tuple[TrainBatches, list[Batch]]:
    """Training batches for ever, and the validation split in length buckets."""

    def columns(name: str) -> Columns:
        return signals.columns(name) if signals else Columns.zeros(splits[name])

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
