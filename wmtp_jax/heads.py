"""The prediction heads: what head k >= 1 adds to the trunk.

`params["heads"]` holds heads k >= 1, stacked along a leading axis of K - 1; head 0 is
the trunk's own unembedding and has no parameters here.

Axes: B rows, L positions, K heads, V vocabulary, D width.
"""

import jax
import jax.numpy as jnp

from shared.config.fields import Config, HeadsConfig
from shared.config.model import ModelConfig
from wmtp_jax.model import Outputs, Params, block_state, init_trunk


def init_params(key: jax.Array, cfg: ModelConfig, heads: HeadsConfig) -> Params:
    """Random parameters in float32: `trunk` and `heads`.

    The trunk depends on `key` alone, whatever the heads are, so that algorithms and
    head types are compared from the same start.
    """
    trunk_key, heads_key = jax.random.split(key)
    trunk = init_trunk(trunk_key, cfg)
    return {"trunk": trunk, "heads": init_heads(heads_key, trunk, cfg, heads)}


def init_heads(
    key: jax.Array, trunk: Params, cfg: ModelConfig, heads: HeadsConfig
) -> Params:
    """Parameters of heads k >= 1, stacked: `{}` for K = 1.

    `linear`: an unembedding of their own each, random or a copy of head 0's.
    `residual`: `h + W2 silu(W1 h)` with W2 = 0, so that each starts as head 0.
    `block`: a copy of the last block and of the final norm.
    """
    extra, D = heads.count - 1, cfg.width

    def copies(x):
        return jnp.repeat(x[None], extra, axis=0)

    if extra == 0:
        return {}
    if heads.type == "linear" and heads.linear_start == "unembedding":
        return {"unembed": copies(trunk.get("unembed", trunk["embed"]))}
    if heads.type == "linear":
        shape = (extra, cfg.vocab_size, D)
        return {"unembed": cfg.init_deviation * jax.random.normal(key, shape)}
    if heads.type == "residual":
        inner = cfg.init_deviation * jax.random.normal(key, (extra, D, D))
        return {"inner": inner, "outer": jnp.zeros((extra, D, D))}
    last = jax.tree.map(lambda x: x[-1], trunk["blocks"])
    return {
        "blocks": jax.tree.map(copies, last),
        "norms": jax.tree.map(copies, trunk["norm"]),
    }


def head_states(params: Params, outputs: Outputs, cfg: Config) -> jax.Array:
    """What each head multiplies with its unembedding: `states_KBLD`.

    Head 0 is the trunk state itself. The others read `s * h + (1 - s) * stop(h)` with
    `s = heads.trunk_gradient_scale`.
    """
    heads, hidden_BLD = cfg.heads, outputs.hidden_BLD
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
        states = []
        for k in range(extra):
            block, norm = (
                jax.tree.map(lambda x, k=k: x[k], params["heads"][name])
                for name in ("blocks", "norms")
            )
            states.append(
                block_state(
                    block, norm, residual_BLD, outputs.positions, cfg.model, cfg.machine
                )
            )
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
