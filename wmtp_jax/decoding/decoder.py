"""The decoder one block of tokens at a time, with the keys and values of before kept.

It computes what `model.forward` computes, from parameters that lie layer by layer with
every matrix [out, in] (`shared/huggingface/layers.py`). Features are the leading axis
of what passes through the layers: XLA's CPU backend multiplies a matrix [out, in] with
few columns at nearly the speed of memory, and with few rows at less than half of it.

Keys lie with their places last: XLA's CPU backend multiplies a few queries with them
twice as fast as the other way round.

A layer first writes a block's keys and values to the cache and then attends to it, so
that XLA updates it in place. What is beyond a row's length in it is never attended to,
and a draft that is rejected needs no undoing.

Axes: B rows, T tokens of a block, R = B T, S places of the cache, D width, X queries,
keys and values, N query heads, M key and value heads, Y = B M, G = N / M, H width of a
head.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from shared.config.model import ModelConfig
from wmtp_jax.model import ACTIVATIONS
from wmtp_jax.positions import rotary_frequencies

Params = dict[str, Any]
Cache = tuple[tuple[jax.Array, jax.Array], ...]  # of each layer k_YHS and v_YSH


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class States:
    """What a block leaves for the unembedding and the heads.

    Attributes:
      hidden_DR: after the final norm.
      residual_DR: before it.
    """

    hidden_DR: jax.Array
    residual_DR: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Places:
    """Where the tokens of a block stand.

    Attributes:
      start_B: how many tokens a row has in the cache.
      turn_2HR: cosine and sine of the rotary angles; None for GPT-2.
    """

    start_B: jax.Array
    turn_2HR: jax.Array | None


def empty_cache(
    cfg: ModelConfig, layers: int, rows: int, places: int, dtype: str
) -> Cache:
    """Keys and values of so many layers (block heads have one each), all 0."""
    Y, S, H = rows * cfg.kv_heads, places, cfg.H
    return tuple(
        (jnp.zeros((Y, H, S), dtype), jnp.zeros((Y, S, H), dtype))
        for _ in range(layers)
    )


def num_places(cache: Cache) -> int:
    """S, how many tokens of a row there is room for."""
    return cache[0][1].shape[1]


def with_places(cache: Cache, places: int) -> Cache:
    """The cache with so many places: more that are empty, or the first of them."""

    def fitted(x: jax.Array, axis: int) -> jax.Array:
        more = [(0, 0)] * x.ndim
        more[axis] = (0, max(0, places - x.shape[axis]))
        return jnp.pad(
            lax.slice_in_dim(x, 0, min(places, x.shape[axis]), axis=axis), more
        )

    return tuple((fitted(k_YHS, 2), fitted(v_YSH, 1)) for k_YHS, v_YSH in cache)


def extend(
    params: Params,
    cache: Cache,
    tokens_BT: jax.Array,
    start_B: jax.Array,
    cfg: ModelConfig,
) -> tuple[States, Cache]:
    """Runs the trunk over the next tokens of every row.

    Args:
      cache: of the trunk's layers; places from `start_B` on are overwritten.
      start_B: how many tokens are before the block; `start + T` must be at most S.
    """
    T = tokens_BT.shape[1]
    positions_BT = start_B[:, None] + jnp.arange(T)[None]
    x_RD = params["embed"][tokens_BT.reshape(-1)]
    if not cfg.is_rotary:
        last = params["place"].shape[0] - 1
        x_RD = x_RD + params["place"][jnp.minimum(positions_BT.reshape(-1), last)]
    x_DR = x_RD.T
    places = places_of(start_B, T, cfg)
    written = []
    for number, (layer, kept) in enumerate(
        zip(params["layers"], cache, strict=True), 1
    ):
        x_DR, kept = run_layer(layer, kept, x_DR, places, cfg, number)
        written.append(kept)
    return States(norm(params["norm"], x_DR, cfg), x_DR), tuple(written)


def places_of(start_B: jax.Array, T: int, cfg: ModelConfig) -> Places:
    """Where the tokens of a block of T stand."""
    if not cfg.is_rotary:
        return Places(start_B, None)
    positions_1R = (start_B[:, None] + jnp.arange(T)[None]).reshape(1, -1)
    angle_HR = rotary_frequencies(cfg)[:, None] * positions_1R.astype(jnp.float32)
    return Places(start_B, jnp.stack([jnp.cos(angle_HR), jnp.sin(angle_HR)]))


def unembed(params: Params, hidden_DR: jax.Array) -> jax.Array:
    """`logits_VR` of head 0, float32."""
    return product(params["unembed"], hidden_DR).astype(jnp.float32)


def run_layer(
    layer: Params,
    kept: tuple[jax.Array, jax.Array],
    x_DR: jax.Array,
    places: Places,
    cfg: ModelConfig,
    number: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """One layer; returns its output and its part of the cache.

    Args:
      number: of the layer, from 1.
    """
    mixed_XR, fresh = _attend(
        layer, kept, norm(layer["norm1"], x_DR, cfg), places, cfg, number
    )
    x_DR = x_DR + _dense(layer["out"], mixed_XR)
    up_FR = _dense(layer["up"], norm(layer["norm2"], x_DR, cfg))
    activate = ACTIVATIONS[cfg.activation]
    if cfg.is_rotary:  # the gate's rows come first
        up_FR = activate(up_FR[: cfg.F]) * up_FR[cfg.F :]
    else:
        up_FR = activate(up_FR)
    return x_DR + _dense(layer["down"], up_FR), fresh


def norm(params: Params, x_DR: jax.Array, cfg: ModelConfig) -> jax.Array:
    """RMSNorm, or GPT-2's LayerNorm, over the features."""
    x = x_DR.astype(jnp.float32)
    if not cfg.is_rotary:
        x = x - jnp.mean(x, axis=0, keepdims=True)
    x = x * lax.rsqrt(jnp.mean(x * x, axis=0, keepdims=True) + cfg.norm_epsilon)
    x = x * params["scale"][:, None]
    if "bias" in params:
        x = x + params["bias"][:, None]
    return x.astype(x_DR.dtype)


def _attend(layer, kept, x_DR, places, cfg, number):
    """Attention of a block to the cache and to itself."""
    N, M, H, B = cfg.num_attention_heads, cfg.kv_heads, cfg.H, places.start_B.shape[0]
    qkv_XHR = _dense(layer["qkv"], x_DR).reshape(N + 2 * M, H, -1)
    T = qkv_XHR.shape[2] // B
    q_NHR, k_MHR, v_MHR = jnp.split(qkv_XHR, (N, N + M))
    if places.turn_2HR is not None:
        q_NHR, k_MHR = (_turn(x, places.turn_2HR) for x in (q_NHR, k_MHR))
    scale = H**-0.5 / (number if cfg.scale_by_layer else 1)
    q_YXH = _by_row(q_NHR * scale, B).reshape(B * M, -1, H)  # X = G T
    new = tuple(_by_row(x, B).astype(kept[0].dtype) for x in (k_MHR, v_MHR))
    k_YHS, v_YSH = kept = _write(kept, new, places.start_B)
    last_BT = places.start_B[:, None] + jnp.arange(T)[None]
    seen_BTS = jnp.arange(v_YSH.shape[1])[None, None] <= last_BT[:, :, None]
    seen_YXS = jnp.repeat(jnp.tile(seen_BTS, (1, N // M, 1)), M, axis=0)
    share_YXS = jnp.where(seen_YXS, _scores(q_YXH, k_YHS), -jnp.inf)
    share_YXS = jnp.exp(share_YXS - share_YXS.max(-1, keepdims=True))
    mixed_YXH = _mix(share_YXS, v_YSH) / share_YXS.sum(-1, keepdims=True)
    mixed_BNTH = mixed_YXH.astype(x_DR.dtype).reshape(B, N, T, H)
    mixed_XR = jnp.transpose(mixed_BNTH, (1, 3, 0, 2)).reshape(N * H, B * T)
    return mixed_XR, kept


def _by_row(x_NHR: jax.Array, B: int) -> jax.Array:
    """`[B N, T, H]`."""
    N, H, R = x_NHR.shape
    x_BNTH = jnp.transpose(x_NHR.reshape(N, H, B, R // B), (2, 0, 3, 1))
    return x_BNTH.reshape(B * N, R // B, H)


def _scores(q_YXH: jax.Array, k_YHS: jax.Array) -> jax.Array:
    return jnp.einsum("yxh,yhs->yxs", q_YXH, k_YHS, preferred_element_type=jnp.float32)


def _mix(share_YXS: jax.Array, v_YSH: jax.Array) -> jax.Array:
    share_YXS = share_YXS.astype(v_YSH.dtype)
    return jnp.einsum(
        "yxs,ysh->yxh", share_YXS, v_YSH, preferred_element_type=jnp.float32
    )


def _turn(x_NHR: jax.Array, turn_2HR: jax.Array) -> jax.Array:
    """Rotates feature i against feature i + H / 2 of each head."""
    cos_1HR, sin_1HR = turn_2HR[:, None]
    first, second = jnp.split(x_NHR.astype(jnp.float32), 2, axis=1)
    turned = (first * cos_1HR - second * sin_1HR, second * cos_1HR + first * sin_1HR)
    return jnp.concatenate(turned, axis=1).astype(x_NHR.dtype)


def _write(kept, new, start_B):
    """The cache with a block's keys and values, in place."""
    (k_YHS, v_YSH), (k_YTH, v_YTH) = kept, new
    Y, T, H = k_YTH.shape
    if (B := start_B.shape[0]) == 1:  # XLA copies the cache for a scatter of one row
        start = start_B[0]
        return (
            lax.dynamic_update_slice(k_YHS, k_YTH.swapaxes(1, 2), (0, 0, start)),
            lax.dynamic_update_slice(v_YSH, v_YTH, (0, start, 0)),
        )
    place_BT = start_B[:, None] + jnp.arange(T)[None]
    place_YT = jnp.repeat(place_BT, Y // B, axis=0)
    # A row at rest may stand at the cache's end: what is beyond drops.
    one_by_one = {"mode": "drop", "unique_indices": True}
    row_Y, feature_H = jnp.arange(Y), jnp.arange(H)
    of_keys = k_YHS.at[row_Y[:, None, None], feature_H, place_YT[:, :, None]]
    of_values = v_YSH.at[row_Y[:, None], place_YT]
    return of_keys.set(k_YTH, **one_by_one), of_values.set(v_YTH, **one_by_one)


def _dense(layer: Params, x_DR: jax.Array) -> jax.Array:
    out_XR = product(layer["kernel"], x_DR)
    return out_XR + layer["bias"][:, None] if "bias" in layer else out_XR


def product(matrix_XD: jax.Array, x_DR: jax.Array) -> jax.Array:
    return lax.dot_general(matrix_XD, x_DR, (((1,), (0,)), ((), ())))
