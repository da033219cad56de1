"""Where tokens stand: the attention mask, and rotary positions.

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
      mask_B1LL: True where a position may attend to another.
      turn_BL2H: cosine and sine of the rotary angles, float32; None for GPT-2.
    """

    mask_B1LL: jax.Array
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
    positions_BL: jax.Array, document_BL: jax.Array, cfg: ModelConfig
) -> Positions:
    """Mask (causal, within one document) and rotary angles of a batch."""
    L = document_BL.shape[1]
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    earlier_LL = jnp.arange(L)[:, None] >= jnp.arange(L)[None, :]
    mask_B1LL = (same_BLL & earlier_LL[None])[:, None]
    if not cfg.is_rotary:
        return Positions(mask_B1LL, None)
    positions_BL1 = positions_BL[:, :, None].astype(jnp.float32)
    angle_BLH = positions_BL1 * rotary_frequencies(cfg)[None, None]
    return Positions(
        mask_B1LL, jnp.stack([jnp.cos(angle_BLH), jnp.sin(angle_BLH)], axis=2)
    )
