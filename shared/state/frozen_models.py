"""Frozen models of a run: its reference and its reward model, found and checked.

Nothing is written here and no weights are read: a trainer reads them when a signal that
is not in the cache asks for them, or trains the reference first if nobody names one.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from shared.algorithms import PLAIN
from shared.config.fields import Config, HeadsConfig, WeightingConfig
from shared.config.layers import build, load_config
from shared.config.model import ModelConfig
from shared.data.documents import Split, load_splits
from shared.data.tokenised import check_rows
from shared.data.tokenizer import Tokenizer, load_tokenizer
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.folder import (
    check_model,
    files_digest,
    open_model_tree,
)
from shared.huggingface.hub import model_folder
from shared.huggingface.leaves import Leaf, Tree, each
from shared.huggingface.tree import Params
from shared.signals.measure import SCORED_SPLITS
from shared.signals.passes import FrozenModel
from shared.state.checkpoints import identify, require_step, steps_in
from shared.state.model_source import tokenizer_of_run
from shared.state.portable_state import check_state, is_state
from shared.state.run_folder import check_backend, find

SAMPLES = 1000  # texts of a split on which two tokenizers have to agree


def find_reference(
    cfg: Config,
    backend: str,
    tokenizer: Tokenizer,
    examples: dict[str, Any],
    splits: dict[str, Split],
) -> FrozenModel:
    """What `--reference` names: a run, a Hugging Face folder, or a name on the hub.

    Args:
      backend: whose runs can be read.
      tokenizer: of the run, which the reference must share.
      examples: of the run, by split.
      splits: train and validation.

    Raises:
      ValueError: if it is none of them, has another tokenizer, or is too short for the
        rows of the run.
    """
    name = cfg.reference.model
    try:
        path, step = find(name, cfg.output_dir)
    except ValueError:
        try:
            folder = model_folder(name, cfg.reference.revision, "reference.model")
        except ValueError as error:
            raise ValueError(f"{error} (or name a run of this program)") from None
        found = _of_folder(cfg, folder, "causal", "the reference", splits)
    else:
        found = _of_run(cfg, backend, path, step, splits)
    texts = [
        (f"{split}/{row['id']}", row["prompt"] + row["completion"])
        for split in SCORED_SPLITS
        for row in examples[split][:SAMPLES]
    ]
    _check_tokenizer(found, tokenizer, texts)
    _check_rows(found, "the reference")
    return found


def untrained_reference(
    cfg: Config,
    tokenizer: Tokenizer,
    splits: dict[str, Split],
    start_files: str | None,
) -> FrozenModel:
    """The reference that is trained first, where nobody names one.

    It is known by what it is trained from, so that its signals are found again without
    training it again.

    Args:
      splits: train, validation and reference.
      start_files: digest of the folder that the run starts from, if it does.
    """
    own = replace(
        _plain(cfg, cfg.model),
        optimizer=replace(cfg.optimizer, lr=cfg.reference.lr),
        train=replace(cfg.train, epochs=cfg.reference.epochs),
    )
    documents = splits["reference"].documents
    return FrozenModel(
        cfg=own,
        tokenizer=tokenizer,
        source=(
            f"trained first from the same start, {cfg.reference.epochs} epochs on the "
            f"`reference` split ({len(documents)} documents)"
        ),
        identity={
            "start": cfg.seed,
            "start_files": start_files,
            "trained_on": splits["reference"].digest,
            "optimizer": asdict(own.optimizer),
            "first_moment": own.machine.first_moment,
            "epochs": cfg.reference.epochs,
            **_step_of(cfg),
        },
        splits={name: splits[name] for name in SCORED_SPLITS},
    )


def _step_of(cfg: Config) -> dict[str, int]:
    """What of its batches decides a training: the rows of a step, however split."""
    known = {"batch_size": cfg.data.batch_size * cfg.train.accumulation}
    if cfg.model.dropout > 0 and cfg.train.accumulation > 1:  # drawn per micro-batch
        known["accumulation"] = cfg.train.accumulation
    return known


def find_reward_model(cfg: Config, examples: dict[str, Any]) -> FrozenModel:
    """What `--reward-model` names: a sequence classifier with one label.

    Raises:
      ValueError: if it is no such folder or name, is too short for the rows of the
        run, or has no embedding for a token of the data.
    """
    critic = cfg.critic
    folder = model_folder(
        critic.reward_model, critic.reward_revision, "critic.reward_model"
    )
    found = _of_folder(cfg, folder, "reward", "the reward model", {})
    # A reward is one number per text, so its model may cut the text its own way, and
    # which of its tokens are targets plays no part.
    whole = replace(cfg.data, loss_on="all")
    splits = load_splits(
        whole, found.tokenizer, splits=SCORED_SPLITS, examples=examples
    )
    found = replace(found, splits=splits)
    _check_rows(found, "the reward model")
    return found


def read_weights(model: FrozenModel) -> Params:
    """What `open_weights` opens, as NumPy arrays."""
    return each(Leaf.read, open_weights(model))


def open_weights(model: FrozenModel) -> Tree:
    """Weights of a model in a Hugging Face folder, of which nothing is read yet.

    Returns:
      `trunk` with `heads` (empty), or with `score` for a reward model; with a `Leaf` in
      place of every array.
    """
    assert model.folder is not None and model.run is None
    kind = read_hf_config(model.folder).kind
    return open_model_tree(model.folder, model.cfg.model, kind=kind, extras=False)


def _of_run(
    cfg: Config, backend: str, path: Path, step: int | None, splits: dict[str, Split]
) -> FrozenModel:
    check_backend(path, backend, f"name its export, {path / 'model'}")
    saved = load_config(path / "config.yaml")
    tokenizer = tokenizer_of_run(path, saved)
    _check_fits(cfg, saved.model, path, "the reference")
    folder = path / "checkpoints"
    step = require_step(folder, steps_in(folder), step)
    if is_state(folder / str(step)):
        check_state(folder / str(step))
    return FrozenModel(
        cfg=_plain(cfg, saved.model),
        tokenizer=tokenizer,
        source=f"model of the run {cfg.reference.model!r}",
        identity={"weights": f"{identify(folder, step)} {path.name}"},
        splits={name: splits[name] for name in SCORED_SPLITS},
        folder=path,
        run=saved,
        step=step,
    )


def _of_folder(
    cfg: Config, folder: Path, kind: str, what: str, splits: dict[str, Split]
) -> FrozenModel:
    described = read_hf_config(folder)
    if described.kind != kind:
        kinds = {"causal": "a causal language model", "reward": "a sequence classifier"}
        raise ValueError(
            f"{what} must be {kinds[kind]}, got {kinds[described.kind]} in {folder}"
        )
    of_model = build(described.layer | {"data.max_length": 2, "heads.count": 1}).model
    tokenizer = load_tokenizer(str(folder), f"the tokenizer of {what}")
    _check_fits(cfg, of_model, folder, what)
    check_model(folder, of_model, kind)
    return FrozenModel(
        cfg=_plain(cfg, of_model),
        tokenizer=tokenizer,
        source=str(folder),
        identity={"weights": files_digest(folder)},
        splits={name: splits[name] for name in SCORED_SPLITS if name in splits},
        pad_id=described.pad_id,
        folder=folder,
    )


def _plain(cfg: Config, of_model: ModelConfig) -> Config:
    """The run's config with another model and nothing but next-token prediction."""
    return replace(
        cfg,
        algo=PLAIN,
        model=of_model,
        heads=HeadsConfig(count=1),
        weighting=WeightingConfig(),
    )


def _check_fits(cfg: Config, of_model: ModelConfig, folder: Path, what: str) -> None:
    if of_model.max_positions < cfg.data.max_length:
        raise ValueError(
            f"{what} must have at least data.max_length = {cfg.data.max_length} "
            f"positions, got {of_model.max_positions} in {folder}"
        )


def _check_rows(frozen: FrozenModel, what: str) -> None:
    rows = frozen.cfg.model.vocab_size
    check_rows(frozen.splits, rows, frozen.tokenizer, what)


def _check_tokenizer(
    frozen: FrozenModel, tokenizer: Tokenizer, texts: Sequence[tuple[str, str]]
) -> None:
    """Holds the reference's token ids against the run's, on named texts of the data."""
    must = "the reference must have the tokenizer of this run, got other ids for sample"
    for name, text in texts:
        ours, theirs = tokenizer.encode(text), frozen.tokenizer.encode(text)
        if ours != theirs:
            pairs = enumerate(zip_longest(ours, theirs))
            at = next(i for i, (our, their) in pairs if our != their)
            raise ValueError(
                f"{must} {name!r} from token {at} on: {theirs[at : at + 4]}, here "
                f"{ours[at : at + 4]} (in {frozen.source})"
            )
    if frozen.tokenizer.eos_id != tokenizer.eos_id:
        raise ValueError(
            f"the reference must end documents with token {tokenizer.eos_id} as this "
            f"run does, got {frozen.tokenizer.eos_id} (in {frozen.source})"
        )
