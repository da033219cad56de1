"""The prediction heads: what head k >= 1 adds to the trunk.

`params["heads"]` holds heads k >= 1, stacked along a leading axis of K - 1; head 0 is
the trunk's own unembedding and has no parameters here.

Axes: B rows, L positions, K heads, V vocabulary, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from shared.config.fields import Config, HeadsConfig
from shared.config.model import ModelConfig
from wmtp_jax import layout
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
    """Parameters of heads k >= 1, stacked: `{}` for K = 1."""
    if heads.count == 1:
        return {}
    return HEAD_FUNCTIONS[heads.type].init(key, trunk, cfg, heads)


def head_states(
    params: Params, outputs: Outputs, cfg: Config, mesh: Mesh | None = None
) -> jax.Array:
    """What each head multiplies with its unembedding: `states_KBLD`.

    Head 0 is the trunk state itself. The others read `s * h + (1 - s) * stop(h)` with
    `s = heads.trunk_gradient_scale`, and their unembedding likewise where it is shared
    (`unembed.py`).
    """
    heads, hidden_BLD = cfg.heads, outputs.hidden_BLD
    if heads.count == 1:
        return hidden_BLD[None]
    scale = heads.trunk_gradient_scale
    read = replace(
        outputs,
        hidden_BLD=_scale_gradient(hidden_BLD, scale),
        residual_BLD=_scale_gradient(outputs.residual_BLD, scale),
    )
    # An unembedding is no part of a state, and large.
    own = {name: x for name, x in params["heads"].items() if name != "unembed"}
    states = [hidden_BLD]
    key = outputs.dropout_key

    def state_of(head: Params, read: Outputs) -> jax.Array:
        head = layout.in_use(head, mesh, cfg.machine.dtype)
        return HEAD_FUNCTIONS[heads.type].state(head, read, cfg, mesh)

    if layout.shares_matrices(mesh):
        state_of = jax.checkpoint(state_of, policy=layout.all_but_gathered)
    for k in range(heads.count - 1):
        head = jax.tree.map(lambda x, k=k: x[k], own)
        if key is not None:
            read = replace(read, dropout_key=jax.random.fold_in(key, k))
        states.append(state_of(head, read))
    return jnp.stack(states)


# The types of heads: how each starts, stacked, and how one makes its state.


@dataclass(frozen=True)
class HeadFunctions:
    """What a type of `shared/head_types.py` computes.

    Attributes:
      init: `(key, trunk, model, heads)` -> parameters of heads k >= 1, stacked.
      state: `(parameters of one head, outputs of the trunk, cfg, mesh)` -> `state_BLD`.
    """

    init: Callable[[jax.Array, Params, ModelConfig, HeadsConfig], Params]
    state: Callable[[Params, Outputs, Config, Mesh | None], jax.Array]


def _init_linear(key, trunk, cfg, heads):
    """An unembedding each, random or a copy of head 0's."""
    if heads.linear_start == "unembedding":
        copied = trunk.get("unembed", trunk["embed"])
        return {"unembed": jnp.repeat(copied[None], heads.count - 1, axis=0)}
    shape = (heads.count - 1, cfg.vocab_size, cfg.width)
    return {"unembed": cfg.init_deviation * jax.random.normal(key, shape)}


def _linear_state(head, outputs, cfg, mesh):
    return outputs.hidden_BLD


def _init_residual(key, trunk, cfg, heads):
    """W2 is 0, so that each starts as head 0."""
    shape = (heads.count - 1, cfg.width, cfg.width)
    inner = cfg.init_deviation * jax.random.normal(key, shape)
    return {"inner": inner, "outer": jnp.zeros(shape)}


def _residual_state(head, outputs, cfg, mesh):
    h_BLD = outputs.hidden_BLD
    inner_DD, outer_DD = (head[name].astype(h_BLD.dtype) for name in ("inner", "outer"))
    return h_BLD + jax.nn.silu(h_BLD @ inner_DD) @ outer_DD


def _init_medusa(key, trunk, cfg, heads):
    """All 0, so that each starts as head 0; W still learns, as silu'(0) = 1/2."""
    extra, D = heads.count - 1, cfg.width
    return {"kernel": jnp.zeros((extra, D, D)), "bias": jnp.zeros((extra, D))}


def _medusa_state(head, outputs, cfg, mesh):
    h_BLD = outputs.hidden_BLD
    kernel_DD, bias_D = (head[x].astype(h_BLD.dtype) for x in ("kernel", "bias"))
    return h_BLD + jax.nn.silu(h_BLD @ kernel_DD + bias_D[None, None])


def _init_block(key, trunk, cfg, heads):
    """A copy of the last block and of the final norm."""
    extra = heads.count - 1
    last = jax.tree.map(lambda x: x[-1], trunk["blocks"])
    blocks, norms = jax.tree.map(
        lambda x: jnp.repeat(x[None], extra, axis=0), (last, trunk["norm"])
    )
    return {"blocks": blocks, "norms": norms}


def _block_state(head, outputs, cfg, mesh):
    return block_state(
        head["blocks"],
        head["norms"],
        outputs.residual_BLD,
        outputs.positions,
        cfg.model,
        cfg.machine,
        outputs.dropout_key,
        mesh,
    )


HEAD_FUNCTIONS = {
    "linear": HeadFunctions(_init_linear, _linear_state),
    "residual": HeadFunctions(_init_residual, _residual_state),
    "medusa": HeadFunctions(_init_medusa, _medusa_state),
    "block": HeadFunctions(_init_block, _block_state),
}


def unembeddings(params: Params) -> tuple[jax.Array, jax.Array | None]:
    """`W_VD` of head 0 and all heads without their own, and the linear heads'."""
    trunk = params["trunk"]
    return trunk.get("unembed", trunk["embed"]), params["heads"].get("unembed")


def _scale_gradient(x: jax.Array, scale: float) -> jax.Array:
    if scale == 1.0:
        return x
    return scale * x + (1 - scale) * jax.lax.stop_gradient(x)
