"""Signals: what frozen models say of the data, computed once and cached.

`ref_nll` of a token and the reward of a document never change while the models that
give them are frozen, so one pass over the data (`signal_parts.py`) fills a cache on
disk, and training pays for no such forward at all.
"""

import logging
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from shared import weighting
from shared.config.fields import Config, HeadsConfig, WeightingConfig
from shared.data.batches import Columns
from shared.data.documents import Split
from shared.run.backend import Backend
from shared.signals import cache as signals
from shared.signals.kept import Signals
from shared.signals.measure import Asked, Measured, find_signal
from shared.signals.passes import Answer, last_score, token_nll
from shared.state.frozen_models import Frozen

log = logging.getLogger("wmtp")
SCORED_SPLITS = ("train", "validation")
SIGNALS_VERSION = 2  # counted up when a pass here, or the model, gives other numbers


@dataclass(frozen=True)
class Sources:
    """The frozen models of a run, found but not read.

    Attributes:
      reference: what `--reference` names; None: one is trained first, if need be.
      reward: what `--reward-model` names, if anything.
      reward_splits: the splits in the reward model's own tokens.
    """

    reference: Frozen | None
    reward: Frozen | None
    reward_splits: dict[str, Split]


def find_signals(
    cfg: Config,
    splits: dict[str, Split],
    digests: dict[str, str],
    sources: Sources,
    backend: Backend,
    device: Any,
) -> Signals:
    """Signals for train and validation, cached or computed.

    Args:
      digests: of `tokenizer`, and of `model`, `reference_model` and `reward_model`
        where a run has them.
    """
    nothing = {name: Columns.zeros(splits[name]) for name in SCORED_SPLITS}
    ref_nll = {name: columns.ref_nll for name, columns in nothing.items()}
    reward = {name: columns.reward for name, columns in nothing.items()}
    reference = reward_model = None
    if cfg.needs_reference:
        reference, ref_nll = _reference_nll(
            cfg, splits, digests, sources.reference, backend, device
        )
    moments = (0.0, 1.0)
    if cfg.algo == "critic":
        if sources.reward is not None:
            reward_model = f"score of {sources.reward.source}, whitened"
            raw = _scores(cfg, digests, sources, backend, device)
        else:
            reward_model = (
                "pseudo reward (no reward model): -mean ref_nll of the document, "
                "whitened"
            )
            raw = {n: _pseudo_rewards(ref_nll[n], splits[n]) for n in SCORED_SPLITS}
        reward, moments = _whiten(raw)
    return Signals(reference, reward_model, ref_nll, reward, moments)


def _reference_nll(
    cfg: Config,
    splits: dict[str, Split],
    digests: dict[str, str],
    frozen: Frozen | None,
    backend: Backend,
    device: Any,
) -> tuple[str, dict[str, tuple[np.ndarray, ...]]]:
    """Source of the reference in words, and its `ref_nll` by split."""
    origin: dict[str, object]
    if frozen is not None:
        own, source = frozen.cfg, frozen.source
        origin = {"weights": digests["reference_model"]}
    else:
        # A reference that is trained first is known by what it is trained from, so
        # that its signals are found again without training it again.
        own = _training_config(cfg)
        origin = {
            "start": cfg.seed,
            "start_files": digests.get("model"),
            "trained_on": splits["reference"].digest,
            "optimizer": asdict(own.optimizer),
            "first_moment": own.machine.first_moment,
            "epochs": cfg.reference.epochs,
            "batch_size": cfg.data.batch_size,
        }
        source = (
            f"trained first from the same start, {cfg.reference.epochs} epochs on the "
            f"`reference` split ({len(splits['reference'].documents)} documents)"
        )

    def load() -> Any:
        if frozen is None:
            return backend.train_reference(own, splits["reference"], device)
        return backend.place(frozen.load(), own, device)

    asked = Asked(
        what="ref_nll",
        make_answer=cache(lambda: backend.make_ref_nll(load(), own, device)),
        of_document=token_nll,
        length_of=lambda document: len(document.tokens),
    )
    identity = origin | _identity(own, backend, device)
    identity |= {"tokenizer": digests["tokenizer"]}
    scored = {name: splits[name] for name in SCORED_SPLITS}
    return source, _of_splits(asked, cfg, scored, identity)


def _scores(
    cfg: Config,
    digests: dict[str, str],
    sources: Sources,
    backend: Backend,
    device: Any,
) -> dict[str, np.ndarray]:
    """What the reward model says of each document, by split."""
    frozen, splits = sources.reward, sources.reward_splits
    assert frozen is not None

    def make_answer() -> Answer:
        params = backend.place(frozen.load(), frozen.cfg, device)
        return backend.make_scores(params, frozen.cfg, device)

    asked = Asked(
        what="reward",
        make_answer=cache(make_answer),
        of_document=last_score(frozen.pad_id),
        length_of=lambda document: 1,
    )
    identity = {
        "weights": digests["reward_model"],
        "tokenizer": frozen.tokenizer.digest,
        "signal": "reward",
        **_identity(frozen.cfg, backend, device),
    }
    found = _of_splits(asked, cfg, splits, identity)
    return {name: np.concatenate(scores) for name, scores in found.items()}


def _pseudo_rewards(ref_nll: tuple[np.ndarray, ...], split: Split) -> np.ndarray:
    rewards = [
        weighting.pseudo_reward(nll, document.target)
        for nll, document in zip(ref_nll, split.documents, strict=True)
    ]
    return np.array(rewards, np.float32)


def _whiten(
    raw: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    mean, deviation = (float(x) for x in weighting.reward_moments(raw["train"]))
    if deviation < weighting.SMALLEST_REWARD_DEVIATION:
        log.warning(
            "rewards of the train split are all alike (deviation %.1e): the critic has "
            "nothing to learn, every reward is 0",
            deviation,
        )
    white = {
        name: np.asarray(weighting.whiten(values, mean, deviation))
        for name, values in raw.items()
    }
    return white, (mean, deviation)


def _training_config(cfg: Config) -> Config:
    """The config under which a reference is trained: plain next-token prediction."""
    return replace(
        cfg,
        algo="baseline",
        heads=HeadsConfig(count=1),
        weighting=WeightingConfig(),
        optimizer=replace(cfg.optimizer, lr=cfg.reference.lr),
        train=replace(cfg.train, epochs=cfg.reference.epochs),
    )


def _identity(own: Config, backend: Backend, device: Any) -> dict[str, object]:
    """What decides a frozen model's answers beside its weights and the data."""
    of_model = replace(own.model, name="", revision="")  # where it lies is not it
    return {
        "model": asdict(of_model),
        "dtype": own.machine.dtype,
        "device": backend.kind_of(device),
        **backend.versions,
        "version": SIGNALS_VERSION,
    }


def _of_splits(
    asked: Asked, cfg: Config, splits: dict[str, Split], identity: dict[str, object]
) -> dict[str, Measured]:
    """One signal of each split: from the cache, or measured and put there."""
    result = {}
    for name, split in splits.items():
        key = signals.signal_key(
            **identity,
            data=split.digest,
            max_length=cfg.data.max_length,
            layout=cfg.data.layout,
            loss_on=cfg.data.loss_on,
        )
        result[name] = find_signal(asked, cfg, split, key)
    return result
