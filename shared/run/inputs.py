"""What a run reads before it makes anything: tokenizer, splits, frozen models."""

import logging
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shared.config.fields import Config
from shared.data import contamination
from shared.data.batches import Batch, Columns, TrainBatches, eval_batches
from shared.data.documents import Split, load_examples, load_splits
from shared.data.tokenised import check_rows, digest_apart
from shared.data.tokenizer import Tokenizer, load_tokenizer
from shared.huggingface.folder import check_model, files_digest
from shared.huggingface.generation import read_generation, without_ids
from shared.signals.columns import needs_model
from shared.signals.kept import Signals
from shared.signals.measure import SCORED_SPLITS
from shared.signals.passes import FrozenModel
from shared.state import run_folder
from shared.state.frozen_models import (
    find_reference,
    find_reward_model,
    untrained_reference,
)
from shared.state.model_source import check_folder, find_folder, tokenizer_of_run

log = logging.getLogger("wmtp")


@dataclass(frozen=True)
class Inputs:
    """Everything read before a run folder is made: bad input leaves nothing behind.

    Attributes:
      models: frozen models that its signals ask, by name; none for a run that has kept
        its signals.
      digests: of tokenizer, splits and the files of every model that is named, and
        the backend; what a resumed run must find unchanged.
    """

    cfg: Config
    tokenizer: Tokenizer
    splits: dict[str, Split]
    models: dict[str, FrozenModel]
    contamination: contamination.Report
    digests: dict[str, str]

    @property
    def scored(self) -> dict[str, Split]:
        """The splits that have signals."""
        return {name: self.splits[name] for name in SCORED_SPLITS}


def read_inputs(cfg: Config, backend: str, resumed: Path | None = None) -> Inputs:
    """Tokenizer, splits and frozen models of a config, checked.

    Args:
      backend: package of the trainer.
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
    examples = load_examples(cfg.data)
    # A run that has kept its signals needs nothing any more that they came from.
    kept = resumed is not None and (resumed / "signals").is_dir()
    trains = needs_model(cfg, "reference") and not cfg.reference.model and not kept
    names = SCORED_SPLITS + (("reference",) if trains else ())
    splits = load_splits(cfg.data, tokenizer, splits=names, examples=examples)
    if resumed is not None:
        _check_convention(resumed, cfg, tokenizer, examples, splits)
    check_rows(splits, cfg.model.vocab_size, tokenizer, "model.vocab_size")
    rows = cfg.model.vocab_size
    fits = cfg.decoding.draft_vocab < rows
    cfg.decoding.require("draft_vocab", fits, f"below model.vocab_size = {rows}")
    models: dict[str, FrozenModel] = {}
    if kept and resumed is not None:
        digests = run_folder.recorded_inputs(resumed) | digests
    else:
        start = digests.get("model")
        models = _find_models(cfg, backend, tokenizer, examples, splits, start)
    digests |= {"backend": backend, "tokenizer": tokenizer.digest}
    digests |= {name: split.digest for name, split in splits.items()}
    for name, model in models.items():
        if model.folder is not None:
            digests[f"{name}_model"] = str(model.identity["weights"])
    trained_on = {name: examples[name] for name in ("train", "reference")}
    report = contamination.check(trained_on, cfg.data.check_against)
    return Inputs(cfg, tokenizer, splits, models, report, digests)


def _find_models(
    cfg: Config,
    backend: str,
    tokenizer: Tokenizer,
    examples: dict[str, Any],
    splits: dict[str, Split],
    start: str | None,
) -> dict[str, FrozenModel]:
    """The frozen models that the signals of the run ask."""
    found = {}
    if needs_model(cfg, "reference"):
        if cfg.reference.model:
            named = find_reference(cfg, backend, tokenizer, examples, splits)
            found["reference"] = named
        else:
            own = untrained_reference(cfg, tokenizer, splits, start)
            found["reference"] = own
    if needs_model(cfg, "reward"):
        found["reward"] = find_reward_model(cfg, examples)
    return found


def _check_convention(
    run: Path,
    cfg: Config,
    tokenizer: Tokenizer,
    examples: dict[str, Any],
    splits: dict[str, Split],
) -> None:
    """Says so where other documents come of how texts were tokenised before.

    With many tokenizers, bytes among them, they are the same.
    """
    recorded = run_folder.recorded_inputs(run)
    for name, split in splits.items():
        if recorded.get(name, split.digest) == split.digest:
            continue
        if recorded[name] == digest_apart(examples[name], tokenizer, cfg.data):
            raise ValueError(
                "a resumed run must have the documents it started with, got others: it "
                "was begun when prompt and completion were tokenised apart, so finish "
                "it with the version that began it (its export still loads as --model)"
            )


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
      ValueError: if the folder of the model does not fit the config.
    """
    folder = find_folder(cfg)
    if folder is not None:
        check_folder(cfg, folder)
    own = "bytes" if folder is None else str(folder)
    tokenizer = load_tokenizer(cfg.data.tokenizer or own)
    if folder is not None:
        generation = read_generation(folder)
        if cfg.data.tokenizer:  # whose ids are others
            generation = without_ids(generation)
        tokenizer = replace(tokenizer, generation=generation)
    if cfg.model.vocab_size == 0:
        model = replace(cfg.model, vocab_size=tokenizer.vocab_size)
        cfg = replace(cfg, model=model)
    return cfg, tokenizer


def make_batches(
    cfg: Config, splits: dict[str, Split], signals: Signals | None
) -> tuple[TrainBatches, list[Batch]]:
    """Training batches for ever, and the validation split in length buckets."""

    def columns(name: str) -> Columns:
        return signals.of(name, cfg.algorithm.signals) if signals else {}

    train = train_batches(cfg, splits["train"], columns("train"))
    validation = eval_batches(
        splits["validation"],
        columns("validation"),
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
    )
    return train, validation


def train_batches(
    cfg: Config, split: Split, columns: Columns | None = None
) -> TrainBatches:
    """A split as the config has it trained on, with signals or without."""
    return TrainBatches(
        split,
        columns or {},
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        accumulation=cfg.train.accumulation,
        layout=cfg.data.layout,
        seed=cfg.seed,
    )


def reference_batches(cfg: Config, split: Split) -> tuple[TrainBatches, int]:
    """What a reference is trained on, and in how many steps."""
    batches = train_batches(cfg, split)
    return batches, sum(batches.steps_per_epoch(e) for e in range(cfg.train.epochs))


def count_steps(cfg: Config, train: TrainBatches) -> int:
    """Updates of the whole run: all epochs, or `max_steps` if that is fewer."""
    limit = cfg.train.max_steps or sys.maxsize
    total = 0
    for epoch in range(cfg.train.epochs):
        total += train.steps_per_epoch(epoch)
        if total >= limit:
            return limit
    return total
