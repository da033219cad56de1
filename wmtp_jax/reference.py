"""The frozen reference: what it says of every token, computed once and cached.

`ref_nll` of a token never changes while the reference is frozen, so one pass over the
data fills a cache on disk and training pays for no reference forward at all.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from shared import signals, weighting
from shared.axes import shift_to_tokens
from shared.batches import Batch, Columns, TrainBatches, eval_batches
from shared.config import Config, HeadsConfig, WeightingConfig
from shared.config_file import load_config
from shared.console import Progress
from shared.data import Split
from shared.run_folder import find
from shared.tokenizer import Tokenizer
from wmtp_jax import checkpoint, model, sharding
from wmtp_jax.loss import run_heads
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.state import make_state
from wmtp_jax.step import make_train_step

log = logging.getLogger("wmtp")
SCORED_SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Reference:
    """Where the signals of a run come from, and the signals.

    Attributes:
      source: one sentence for log and summary.
      ref_nll: per split, per document, nats of each token (0 where it is no target).
      reward: per split, the whitened reward of each document.
      reward_moments: mean and deviation of the train split's rewards before whitening.
    """

    source: str
    ref_nll: dict[str, tuple[np.ndarray, ...]]
    reward: dict[str, np.ndarray]
    reward_moments: tuple[float, float]

    def columns(self, name: str) -> Columns:
        """What the batches of split `name` carry."""
        return Columns(ref_nll=self.ref_nll[name], reward=self.reward[name])


def find_signals(
    cfg: Config, splits: dict[str, Split], tokenizer: Tokenizer, mesh: Mesh
) -> Reference:
    """The reference's signals for train and validation, cached or computed."""
    if cfg.reference.run:
        of_reference, params = _named_reference(cfg, tokenizer)
        origin: dict[str, object] = {"params": _digest(params)}
        source = f"model of the run {cfg.reference.run!r}"

        def load() -> model.Params:
            return params
    else:
        # A reference that is trained first is known by what it is trained from, so
        # that its signals are found again without training it again.
        of_reference = _training_config(cfg)
        origin = {
            "start": cfg.seed,
            "trained_on": splits["reference"].digest,
            "optimizer": asdict(of_reference.optimizer),
            "epochs": cfg.reference.epochs,
            "batch_size": cfg.data.batch_size,
        }
        source = (
            f"trained first from the same start, {cfg.reference.epochs} epochs on the "
            f"`reference` split ({len(splits['reference'].documents)} documents)"
        )

        def load() -> model.Params:
            return train_reference(of_reference, splits["reference"], mesh)

    identity = {
        **origin,
        "tokenizer": tokenizer.digest,
        "model": asdict(of_reference.model),
        "dtype": cfg.machine.dtype,
        "jax": jax.__version__,
    }
    ref_nll = _cached_pass(cfg, of_reference, splits, identity, load, mesh)
    raw = {
        name: np.array(
            [
                weighting.pseudo_reward(ref, document.target)
                for ref, document in zip(
                    ref_nll[name], splits[name].documents, strict=True
                )
            ],
            np.float32,
        )
        for name in SCORED_SPLITS
    }
    mean, deviation = (float(x) for x in weighting.reward_moments(raw["train"]))
    if deviation < weighting.SMALLEST_REWARD_DEVIATION:
        log.warning(
            "rewards of the train split are all alike (deviation %.1e): the critic has "
            "nothing to learn, every reward is 0",
            deviation,
        )
    reward = {
        name: np.asarray(weighting.whiten(values, mean, deviation))
        for name, values in raw.items()
    }
    return Reference(source, ref_nll, reward, (mean, deviation))


def train_reference(cfg: Config, split: Split, mesh: Mesh) -> model.Params:
    """Plain next-token training of the start model on the `reference` split."""
    batches = TrainBatches(
        split,
        Columns.zeros(split),
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        accumulation=1,
        layout=cfg.data.layout,
        seed=cfg.seed,
    )
    num_steps = sum(batches.steps_per_epoch(e) for e in range(cfg.train.epochs))
    tx = make_optimizer(cfg, num_steps)
    state = jax.device_put(make_state(cfg, tx), sharding.replicated(mesh))
    step, _ = make_train_step(cfg, tx, num_steps, mesh)
    with Progress(num_steps, "reference", every=20) as progress:
        for number in range(1, num_steps + 1):
            state, metrics = step(state, next(batches))
            progress.update(number, loss=float(metrics["loss"]))  # host sync
    return state.params


def measure_ref_nll(
    params: model.Params, cfg: Config, split: Split, mesh: Mesh
) -> tuple[np.ndarray, ...]:
    """`ref_nll[j]` of every token of every document, in one batched pass."""

    def head_0_nll(params: model.Params, batch: Batch) -> jax.Array:
        _, nll_BLK, _ = run_heads(params, batch, cfg)
        nll_BL = shift_to_tokens(nll_BLK[:, :, 0])
        return jnp.where(batch.target_BL, nll_BL, 0.0)

    whole = sharding.replicated(mesh)
    rows = sharding.split_rows(mesh, micro_batches=False)
    measure = jax.jit(head_0_nll, in_shardings=(whole, rows), out_shardings=whole)
    batches, indices = eval_batches(
        split,
        Columns.zeros(split),
        max_length=cfg.data.max_length,
        batch_size=cfg.data.batch_size,
        seed=cfg.seed,
    )
    result: list[np.ndarray] = [np.zeros(0, np.float32)] * len(split.documents)
    with Progress(len(batches), f"ref_nll of {split.name}", every=20) as progress:
        for number, (batch, rows_B) in enumerate(zip(batches, indices, strict=True), 1):
            nll_BL = np.asarray(measure(params, batch), np.float32)
            for row, index in enumerate(rows_B):
                if index >= 0:
                    length = len(split.documents[index].tokens)
                    result[index] = nll_BL[row, :length].copy()
            progress.update(number)
    return tuple(result)


def _cached_pass(
    cfg: Config,
    cfg_of_reference: Config,
    splits: dict[str, Split],
    identity: dict[str, object],
    load: Callable[[], model.Params],
    mesh: Mesh,
) -> dict[str, tuple[np.ndarray, ...]]:
    folder = Path(cfg.output_dir) / "signals"
    params: model.Params | None = None
    result = {}
    for name in SCORED_SPLITS:
        split = splits[name]
        key = signals.signal_key(
            **identity,
            data=split.digest,
            max_length=cfg.data.max_length,
            layout=cfg.data.layout,
            loss_on=cfg.data.loss_on,
        )
        lengths = [len(document.tokens) for document in split.documents]
        ref_nll = signals.load(folder, key, lengths)
        if ref_nll is None:
            params = load() if params is None else params
            ref_nll = measure_ref_nll(params, cfg_of_reference, split, mesh)
            signals.save(folder, key, ref_nll)
        else:
            log.info("ref_nll of %s: read from the cache", name)
        result[name] = ref_nll
    return result


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


def find_named(cfg: Config) -> tuple[Path, int | None, Config]:
    """Folder, step and config of the run that `--reference` names, checked."""
    try:
        path, step = find(cfg.reference.run, cfg.output_dir)
    except ValueError as error:
        raise ValueError(str(error).replace("--resume", "--reference")) from None
    saved = load_config(path / "config.yaml")
    if saved.data.tokenizer != cfg.data.tokenizer:
        raise ValueError(
            f"the reference must have the tokenizer of this run "
            f"({cfg.data.tokenizer!r}), got {saved.data.tokenizer!r} in {path}"
        )
    if saved.model.max_positions < cfg.data.max_length:
        raise ValueError(
            f"the reference must have at least data.max_length = "
            f"{cfg.data.max_length} positions, got {saved.model.max_positions} "
            f"in {path}"
        )
    return path, step, saved


def _named_reference(cfg: Config, tokenizer: Tokenizer) -> tuple[Config, model.Params]:
    """Config and parameters of the run that `--reference` names."""
    path, step, saved = find_named(cfg)
    like = make_state(saved, make_optimizer(saved, 1))
    manager = checkpoint.open_to_read(path / "checkpoints")
    found = checkpoint.restore(manager, like, step)
    manager.close()
    if found is None:
        raise ValueError(f"the reference must hold a checkpoint, got none in {path}")
    plain = replace(
        saved,
        algo="baseline",
        data=cfg.data,
        heads=HeadsConfig(count=1),
        machine=cfg.machine,
        weighting=WeightingConfig(),
    )
    return plain, {"trunk": found[1].params["trunk"], "heads": {}}


def _digest(params: model.Params) -> str:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()
