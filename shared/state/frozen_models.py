"""Frozen models that a user names: `--reference` and `--reward-model`.

Found and checked before anything is written; their weights are read when a signal that
is not in the cache asks for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shared.config.fields import Config, HeadsConfig, WeightingConfig
from shared.config.layers import build, load_config
from shared.config.model import ModelConfig
from shared.data.tokenizer import Tokenizer, load_tokenizer
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.folder import check_model, read_model, read_reward_model
from shared.huggingface.hub import model_folder
from shared.huggingface.tree import Params
from shared.run.backend import Backend
from shared.signals import cache as signals
from shared.state.model_source import tokenizer_of_run
from shared.state.run_folder import check_backend, find


@dataclass(frozen=True)
class Frozen:
    """A model that somebody named, before its weights are read.

    Attributes:
      cfg: its own model, on the data and the machine of the run.
      tokenizer: its own.
      source: one sentence for log and summary.
      pad_id: of a reward model: its score is read at the last other token.
      identity: digest of its weights; reads files, so it is asked for late.
      load: reads the weights: `trunk` with `heads` (empty), or with `score`; NumPy.
    """

    cfg: Config
    tokenizer: Tokenizer
    source: str
    pad_id: int | None
    identity: Callable[[], str]
    load: Callable[[], Params]


def find_reference(cfg: Config, backend: Backend) -> Frozen:
    """What `--reference` names: a run, a Hugging Face folder, or a name on the hub.

    Raises:
      ValueError: if it is none of them, or too short for the rows of the run.
    """
    name = cfg.reference.model
    try:
        path, step = find(name, cfg.output_dir)
    except ValueError:
        try:
            folder = model_folder(name, cfg.reference.revision, "reference.model")
        except ValueError as error:
            raise ValueError(f"{error} (or name a run of this program)") from None
        return _of_folder(cfg, folder, "causal", "the reference")
    check_backend(path, backend.name, f"name its export, {path / 'model'}")
    saved = load_config(path / "config.yaml")
    tokenizer = tokenizer_of_run(path, saved)
    _check_fits(cfg, saved.model, tokenizer, path, "the reference")
    identity = f"{backend.identify(path / 'checkpoints', step)} {path.name}"

    def load() -> Params:
        return backend.read_trunk(path, saved, step)

    own, source = _plain(cfg, saved.model), f"model of the run {name!r}"
    return Frozen(own, tokenizer, source, None, lambda: identity, load)


def find_reward_model(cfg: Config) -> Frozen:
    """What `--reward-model` names: a sequence classifier with one label.

    Raises:
      ValueError: if it is no such folder or name, or too short for the rows of the run.
    """
    critic = cfg.critic
    folder = model_folder(
        critic.reward_model, critic.reward_revision, "critic.reward_model"
    )
    return _of_folder(cfg, folder, "reward", "the reward model")


def _of_folder(cfg: Config, folder: Path, kind: str, what: str) -> Frozen:
    described = read_hf_config(folder)
    if described.kind != kind:
        kinds = {"causal": "a causal language model", "reward": "a sequence classifier"}
        raise ValueError(
            f"{what} must be {kinds[kind]}, got {kinds[described.kind]} in {folder}"
        )
    of_model = build(described.layer | {"data.max_length": 2, "heads.count": 1}).model
    tokenizer = load_tokenizer(str(folder), f"the tokenizer of {what}")
    _check_fits(cfg, of_model, tokenizer, folder, what)
    check_model(folder, of_model, kind)

    def load() -> Params:
        if kind == "reward":
            return read_reward_model(folder, of_model)
        return read_model(folder, of_model, extras=False)

    return Frozen(
        cfg=_plain(cfg, of_model),
        tokenizer=tokenizer,
        source=str(folder),
        pad_id=described.pad_id,
        identity=lambda: signals.files_digest(folder),
        load=load,
    )


def _plain(cfg: Config, of_model: ModelConfig) -> Config:
    """The run's config with another model and nothing but next-token prediction."""
    return replace(
        cfg,
        algo="baseline",
        model=of_model,
        heads=HeadsConfig(count=1),
        weighting=WeightingConfig(),
    )


def _check_fits(
    cfg: Config, of_model: ModelConfig, tokenizer: Tokenizer, folder: Path, what: str
) -> None:
    if of_model.max_positions < cfg.data.max_length:
        raise ValueError(
            f"{what} must have at least data.max_length = {cfg.data.max_length} "
            f"positions, got {of_model.max_positions} in {folder}"
        )
    if of_model.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"{what} must have at least the {tokenizer.vocab_size} tokens of its own "
            f"tokenizer, got {of_model.vocab_size} in {folder}"
        )


def check_tokenizer(
    frozen: Frozen, tokenizer: Tokenizer, texts: Sequence[tuple[str, str]]
) -> None:
    """Holds the reference's token ids against the run's, on real samples.

    Args:
      texts: name and text of each sample.

    Raises:
      ValueError: naming the first sample whose ids differ.
    """
    for name, text in texts:
        ours, theirs = tokenizer.encode(text), frozen.tokenizer.encode(text)
        if ours != theirs:
            at = next(
                (
                    i
                    for i, (a, b) in enumerate(zip(ours, theirs, strict=False))
                    if a != b
                ),
                min(len(ours), len(theirs)),
            )
            raise ValueError(
                "the reference must have the tokenizer of this run, got other ids for "
                f"sample {name!r} from token {at} on: {theirs[at : at + 4]}, here "
                f"{ours[at : at + 4]} (in {frozen.source})"
            )
    if frozen.tokenizer.eos_id != tokenizer.eos_id:
        raise ValueError(
            f"the reference must end documents with token {tokenizer.eos_id} as this "
            f"run does, got {frozen.tokenizer.eos_id} (in {frozen.source})"
        )
