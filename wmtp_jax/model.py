"""The decoder and its prediction heads. The only file that imports Flax.

Flax is used for what it does well, naming and initialising parameters; everything
outside sees three functions over a plain dict of arrays:

    params  = init_params(key, model, heads)
    outputs = forward(params["trunk"], tokens, positions, documents, model)
    states  = head_states(params, outputs, heads)            # one [B, L, D] a head

`params["trunk"]` is a GPT-2 decoder, its blocks stacked along a leading layer axis and
run as a scan, so that compile time does not grow with depth. `params["heads"]` holds
heads k >= 1, stacked along a leading axis of K - 1.

Axes: B rows, L positions, K heads, V vocabulary, D width, N attention heads, H = D / N.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from shared.config import HeadsConfig, ModelConfig

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Outputs:
    """What one pass of the trunk leaves for heads and value head.

    Attributes:
      hidden_BLD: the trunk state after the final norm; head 0 reads it.
      residual_BLD: the same before the final norm.
      mask_B1LL: True where a position may attend to another.
    """

    hidden_BLD: jax.Array
    residual_BLD: jax.Array
    mask_B1LL: jax.Array


class Attention(nn.Module):
    """Causal self-attention within one document."""

    cfg: ModelConfig
    dtype: Any

    @nn.compact
    def __call__(self, x_BLD, mask_B1LL):
        B, L, D = x_BLD.shape
        N = self.cfg.num_attention_heads
        qkv_BL3NH = _dense(3 * D, self.dtype, "qkv", init_deviation(self.cfg))(x_BLD)
        qkv_BL3NH = qkv_BL3NH.reshape(B, L, 3, N, D // N)
        q_BLNH, k_BLNH, v_BLNH = (qkv_BL3NH[:, :, i] for i in range(3))
        mixed_BLNH = jax.nn.dot_product_attention(
            q_BLNH, k_BLNH, v_BLNH, mask=mask_B1LL
        )
        return _dense(D, self.dtype, "out", _branch_deviation(self.cfg))(
            mixed_BLNH.reshape(B, L, D)
        )


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU layer of width 4 D."""

    cfg: ModelConfig
    dtype: Any
    dropping: bool = False

    @nn.compact
    def __call__(self, x_BLD, mask_B1LL):
        drop = nn.Dropout(self.cfg.dropout, deterministic=not self.dropping)
        normed_BLD = _norm(self.cfg, self.dtype, "norm1")(x_BLD)
        attended_BLD = Attention(self.cfg, self.dtype, name="attention")(
            normed_BLD, mask_B1LL
        )
        x_BLD = x_BLD + drop(attended_BLD)
        normed_BLD = _norm(self.cfg, self.dtype, "norm2")(x_BLD)
        up = _dense(4 * self.cfg.width, self.dtype, "up", init_deviation(self.cfg))
        up_BLF = up(normed_BLD)
        down = _dense(self.cfg.width, self.dtype, "down", _branch_deviation(self.cfg))
        return x_BLD + drop(down(nn.gelu(up_BLF, approximate=True)))


class Trunk(nn.Module):
    """Token and position embeddings, the blocks, the final norm."""

    cfg: ModelConfig
    dtype: Any
    dropping: bool = False

    @nn.compact
    def __call__(self, tokens_BL, positions_BL, mask_B1LL):
        cfg, normal = self.cfg, nn.initializers.normal(init_deviation(self.cfg))
        embed_VD = self.param("embed", normal, (cfg.vocab_size, cfg.width))
        place_PD = self.param("place", normal, (cfg.max_positions, cfg.width))
        if not cfg.tie_embeddings:
            self.param("unembed", normal, (cfg.vocab_size, cfg.width))
        x_BLD = (embed_VD[tokens_BL] + place_PD[positions_BL]).astype(self.dtype)
        x_BLD = nn.Dropout(cfg.dropout, deterministic=not self.dropping)(x_BLD)
        blocks = nn.scan(
            _layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=cfg.num_layers,
            in_axes=nn.broadcast,
        )
        block = Block(cfg, self.dtype, self.dropping, name="blocks")
        residual_BLD, _ = blocks(block, x_BLD, mask_B1LL)
        return _norm(cfg, self.dtype, "norm")(residual_BLD), residual_BLD


def _layer(block: Block, x_BLD: jax.Array, mask_B1LL: jax.Array):
    return block(x_BLD, mask_B1LL), None


def _dense(features: int, dtype, name: str, deviation: float):
    kernel_init = nn.initializers.normal(deviation)
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, name=name)


def init_deviation(cfg: ModelConfig) -> float:
    """Deviation of random weights: GPT-2's 0.02 at its width of 768, scaled to D.

    A narrower model with 0.02 starts with branches that add next to nothing to the
    residual stream, and takes long to leave that state.
    """
    return 0.02 * (768 / cfg.width) ** 0.5


def _branch_deviation(cfg: ModelConfig) -> float:
    # GPT-2: what is added to the residual stream starts smaller in deeper models.
    return init_deviation(cfg) / (2 * cfg.num_layers) ** 0.5


def _norm(cfg: ModelConfig, dtype, name: str | None = None):
    return nn.LayerNorm(epsilon=cfg.norm_epsilon, dtype=dtype, name=name)


def init_params(key: jax.Array, cfg: ModelConfig, heads: HeadsConfig) -> Params:
    """Random parameters in float32.

    The trunk depends on `key` alone, whatever the heads are, so that algorithms and
    head types are compared from the same start.
    """
    tokens_BL = jnp.zeros((1, 1), jnp.int32)
    mask_B1LL = jnp.ones((1, 1, 1, 1), bool)
    trunk_key, heads_key = jax.random.split(key)
    module = Trunk(cfg, jnp.float32)
    trunk = module.init(trunk_key, tokens_BL, tokens_BL, mask_B1LL)["params"]
    return {"trunk": trunk, "heads": init_heads(heads_key, trunk, cfg, heads)}


def init_heads(
    key: jax.Array, trunk: Params, cfg: ModelConfig, heads: HeadsConfig
) -> Params:
    """Parameters of heads k >= 1, stacked: `{}` for K = 1.

    `linear`: an unembedding of their own each, random. `residual`: `h + W2 silu(W1 h)`
    with W2 = 0, so that each starts as head 0. `block`: a copy of the last block and of
    the final norm.
    """
    extra, D = heads.count - 1, cfg.width
    if extra == 0:
        return {}
    if heads.type == "linear":
        shape = (extra, cfg.vocab_size, D)
        return {"unembed": init_deviation(cfg) * jax.random.normal(key, shape)}
    if heads.type == "residual":
        inner = init_deviation(cfg) * jax.random.normal(key, (extra, D, D))
        return {"inner": inner, "outer": jnp.zeros((extra, D, D))}

    def copies(x):
        return jnp.repeat(x[None], extra, axis=0)

    last = jax.tree.map(lambda x: x[-1], trunk["blocks"])
    return {
        "blocks": jax.tree.map(copies, last),
        "norms": jax.tree.map(copies, trunk["norm"]),
    }


def forward(
    trunk: Params,
    tokens_BL: jax.Array,
    positions_BL: jax.Array,
    document_BL: jax.Array,
    cfg: ModelConfig,
    *,
    dtype: str = "float32",
    dropout_key: jax.Array | None = None,
) -> Outputs:
    """Runs the trunk; attention is causal and within one document.

    Args:
      trunk: `params["trunk"]`.
      document_BL: number of the document of a position, 0 for padding.
      dtype: of the computation; parameters are float32.
      dropout_key: drops with `cfg.dropout` if given; nothing is dropped without.
    """
    L = tokens_BL.shape[1]
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    earlier_LL = jnp.arange(L)[:, None] >= jnp.arange(L)[None, :]
    mask_B1LL = (same_BLL & earlier_LL[None])[:, None]
    dropping = dropout_key is not None and cfg.dropout > 0
    module = Trunk(cfg, jnp.dtype(dtype), dropping)
    hidden_BLD, residual_BLD = module.apply(
        {"params": trunk},
        tokens_BL,
        positions_BL,
        mask_B1LL,
        rngs={"dropout": dropout_key} if dropping else None,
    )
    return Outputs(hidden_BLD, residual_BLD, mask_B1LL)


def head_states(
    params: Params, outputs: Outputs, cfg: ModelConfig, heads: HeadsConfig
) -> jax.Array:
    """What each head multiplies with its unembedding: `states_KBLD`.

    Head 0 is the trunk state itself. The others read `s * h + (1 - s) * stop(h)` with
    `s = heads.trunk_gradient_scale`.
    """
    hidden_BLD = outputs.hidden_BLD
    extra = heads.count - 1
    if extra == 0:
        return hidden_BLD[None]
    scaled_BLD = _scale_gradient(hidden_BLD, heads.trunk_gradient_scale)
    if heads.type == "linear":
        states = [scaled_BLD] * extra
    elif heads.type == "residual":
        inner, outer = (params["heads"][name] for name in ("inner", "outer"))
        states = [
            scaled_BLD + _residual(scaled_BLD, inner[k], outer[k]) for k in range(extra)
        ]
    else:
        residual_BLD = _scale_gradient(outputs.residual_BLD, heads.trunk_gradient_scale)
        states = [
            _block_state(params["heads"], k, residual_BLD, outputs.mask_B1LL, cfg)
            for k in range(extra)
        ]
    return jnp.stack([hidden_BLD, *states])


def unembeddings(params: Params) -> tuple[jax.Array, jax.Array | None]:
    """`W_VD` of head 0 and all heads without their own, and the linear heads'."""
    trunk = params["trunk"]
    return trunk.get("unembed", trunk["embed"]), params["heads"].get("unembed")


def _scale_gradient(x: jax.Array, scale: float) -> jax.Array:
    if scale == 1.0:
        return x
    return scale * x + (1 - scale) * jax.lax.stop_gradient(x)


def _residual(h_BLD: jax.Array, inner_DD: jax.Array, outer_DD: jax.Array) -> jax.Array:
    inner_DD, outer_DD = inner_DD.astype(h_BLD.dtype), outer_DD.astype(h_BLD.dtype)
    return jax.nn.silu(h_BLD @ inner_DD) @ outer_DD


def _block_state(
    heads: Params, k: int, x_BLD: jax.Array, mask_B1LL: jax.Array, cfg: ModelConfig
) -> jax.Array:
    block, norm = (
        jax.tree.map(lambda x: x[k], heads[name]) for name in ("blocks", "norms")
    )
    out_BLD = Block(cfg, x_BLD.dtype).apply({"params": block}, x_BLD, mask_B1LL)
    return _norm(cfg, x_BLD.dtype).apply({"params": norm}, out_BLD)
