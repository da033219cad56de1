"""Where tokens stand: whom they may attend to, and rotary positions.

Axes: B rows, L positions, N attention heads, H width of a head.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from shared.config.model import ModelConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Positions:
    """What a block knows of where its tokens stand.

    Attributes:
      start_BL: where the document of a position begins in its row; a padding position
        is a document by itself.
      mask_B1LL: True where a position may attend to another; None where attention is
        computed in blocks, and no array of `[L, L]` is made.
      turn_BL2H: cosine and sine of the rotary angles, float32; None for GPT-2.
    """

    start_BL: jax.Array
    mask_B1LL: jax.Array | None
    turn_BL2H: jax.Array | None


def rotary_frequencies(cfg: ModelConfig) -> np.ndarray:
    """Angle per position of each pair of features, `[H / 2]`, radians, float32.

        frequency[i] = rope_theta ** (-2 i / H)

    `linear` divides all by rope_factor. `llama3` divides those whose wave length
    exceeds `original / low_freq_factor`, leaves those under `original /
    high_freq_factor`, and goes linearly (in `original / wave length`) between.
    Source: the published configuration of Llama 3.1, as `transformers` computes it.
    """
    exponent = np.arange(0, cfg.H, 2, dtype=np.float64) / cfg.H
    frequency = cfg.rope_theta**-exponent
    if cfg.rope_type == "linear":
        frequency = frequency / cfg.rope_factor
    elif cfg.rope_type == "llama3":
        low, high = cfg.rope_low_freq_factor, cfg.rope_high_freq_factor
        waves = cfg.rope_original_positions * frequency / (2 * np.pi)
        kept = np.clip((waves - low) / (high - low), 0, 1)
        frequency = kept * frequency + (1 - kept) * frequency / cfg.rope_factor
    return frequency.astype(np.float32)


def turn(x_BLNH: jax.Array, turn_BL2H: jax.Array) -> jax.Array:
    """Rotates feature i against feature i + H / 2 of each head."""
    cos_BL1H, sin_BL1H = (turn_BL2H[:, :, i, None, :] for i in (0, 1))
    first, second = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
    turned = (
        first * cos_BL1H - second * sin_BL1H,
        second * cos_BL1H + first * sin_BL1H,
    )
    return jnp.concatenate(turned, axis=-1).astype(x_BLNH.dtype)


def find_positions(
    positions_BL: jax.Array,
    document_BL: jax.Array,
    cfg: ModelConfig,
    *,
    masked: bool = True,
) -> Positions:
    """Whom a position may attend to (causal, within one document), rotary angles.

    Args:
      masked: whether the mask is made.
    """
    start_BL = find_starts(document_BL)
    mask_B1LL = _mask(document_BL) if masked else None
    if not cfg.is_rotary:
        return Positions(start_BL, mask_B1LL, None)
    positions_BL1 = positions_BL[:, :, None].astype(jnp.float32)
    angle_BLH = positions_BL1 * rotary_frequencies(cfg)[None, None]
    turn_BL2H = jnp.stack([jnp.cos(angle_BLH), jnp.sin(angle_BLH)], axis=2)
    return Positions(start_BL, mask_B1LL, turn_BL2H)


def find_starts(document_BL: jax.Array) -> jax.Array:
    """`start_BL`; the tokens of a document stand together in its row."""
    index_1L = jnp.arange(document_BL.shape[1])[None]
    before_BL = jnp.pad(document_BL, ((0, 0), (1, 0)))[:, :-1]
    first_BL = (document_BL != before_BL) | (document_BL == 0)
    return jax.lax.cummax(jnp.where(first_BL, index_1L, 0), axis=1)


def _mask(document_BL: jax.Array) -> jax.Array:
    L = document_BL.shape[1]
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    earlier_LL = jnp.arange(L)[:, None] >= jnp.arange(L)[None, :]
    return (same_BLL & earlier_LL[None])[:, None]
