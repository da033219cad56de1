"""Small batches and configs that several test files build on."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from shared.config.fields import (
    Config,
    DataConfig,
    HeadsConfig,
    ModelConfig,
    TrainConfig,
    WeightingConfig,
)
from shared.data.batches import Batch
from wmtp_jax.init_params import init_params
from wmtp_jax.model import Params


def small_config(algo="baseline", *, heads=3, head_type="linear", **changes) -> Config:
    """A config whose model is as small as a model can be."""
    model = ModelConfig(
        num_layers=2, width=16, num_attention_heads=2, max_positions=32, vocab_size=31
    )
    cfg = Config(
        algo=algo,
        model=model,
        heads=HeadsConfig(count=heads, type=head_type),
        data=DataConfig(max_length=16, batch_size=2),
        train=TrainConfig(accumulation=1),
        weighting=WeightingConfig(),
    )
    return replace(cfg, **changes)


def small_batch(rows=2, length=16, *, seed=0, vocab=31, lengths=None) -> Batch:
    """Rows of random documents, padded at the end, with random signals.

    `lengths[row]` are the lengths of the row's documents.
    """
    rng = np.random.default_rng(seed)
    lengths = lengths or [[length // 2, length // 4]] * rows
    document_BL = np.zeros((rows, length), np.int32)
    positions_BL = np.zeros((rows, length), np.int32)
    target_BL = np.zeros((rows, length), bool)
    reward_BL = np.zeros((rows, length), np.float32)
    permutation_BL = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    for row, parts in enumerate(lengths):
        start = 0
        for number, n in enumerate(parts, 1):
            here = slice(start, start + n)
            document_BL[row, here] = number
            positions_BL[row, here] = np.arange(n)
            target_BL[row, start + 1 : start + n] = True
            reward_BL[row, here] = rng.normal()
            permutation_BL[row, start + 1 : start + n] = (
                start + 1 + rng.permutation(n - 1)
            )
            start += n
    tokens_BL = rng.integers(0, vocab, (rows, length)).astype(np.int32)
    ref_nll_BL = np.where(target_BL, rng.gamma(3, 1, (rows, length)), 0).astype("f4")
    batch = Batch(
        tokens_BL=np.where(document_BL > 0, tokens_BL, 0).astype(np.int32),
        document_BL=document_BL,
        positions_BL=positions_BL,
        target_BL=target_BL,
        signals={"ref_nll": ref_nll_BL, "reward": reward_BL},
        noise_BL=rng.normal(size=(rows, length)).astype(np.float32),
        permutation_BL=permutation_BL,
        num_documents=max(map(len, lengths)),
    )
    return batch.changed(jnp.asarray)


@jax.jit
def plain_nll_heads(states_KBLD, targets_BLK, shared_VD, own_KVD):
    """`nll_BLK` as one would write it, with all the logits, to be differentiated."""
    nll = []
    for k, states_BLD in enumerate(states_KBLD):
        matrix_VD = shared_VD if k == 0 or own_KVD is None else own_KVD[k - 1]
        log_p_BLV = jax.nn.log_softmax(states_BLD @ matrix_VD.T)
        chosen_BL1 = jnp.take_along_axis(log_p_BLV, targets_BLK[:, :, k, None], axis=2)
        nll.append(-chosen_BL1[:, :, 0])
    return jnp.stack(nll, axis=2)


def micro_batches(batch: Batch, accumulation: int) -> Batch:
    """`[B, L]` rows as `[A, B / A, L]`."""
    return batch.changed(lambda x: x.reshape(accumulation, -1, x.shape[-1]))


def drawn_params(cfg: Config) -> Params:
    """Away from a start, where many things are zero or equal; drawn, not compiled."""
    rng = np.random.default_rng(5)

    def leaf(path, x):
        about = float(path[-1].key in ("scale", "deviation"))
        return jnp.asarray(about + 0.3 * rng.normal(size=x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes_of(cfg))


@cache
def shapes_of(cfg: Config) -> Params:
    return jax.eval_shape(lambda: init_params(cfg))
