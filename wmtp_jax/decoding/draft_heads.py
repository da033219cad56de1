"""What the heads k >= 1 draft: the tokens after the one that the model has chosen.

A head reads the state at the last token of the text; head k drafts the token that many
places after the model's own next one. All heads that share an unembedding read it once.

Axes: B rows, K - 1 heads k >= 1 (J), R = B J, V vocabulary, D width.
"""

import jax
import jax.numpy as jnp

from shared.config.model import ModelConfig
from wmtp_jax.decoding import decoder
from wmtp_jax.decoding.decoder import Cache, Params, Places, States
from wmtp_jax.decoding.sampler import Controls, argmax, noise


def head_states(
    params: Params,
    cache: Cache,
    states: States,
    places: Places,
    last_B: jax.Array,
    cfg: ModelConfig,
) -> tuple[list[jax.Array], Cache]:
    """The state `[D, B]` of each head at the last token of each row.

    Args:
      cache: of block heads, one layer each; `()` for others.
      last_B: which token of the block is a row's last.
    """
    hidden_DB = _at(states.hidden_DR, last_B)
    found, written = [], []
    for number, head in enumerate(params["heads"]):
        if "norm" in head:  # a layer of its own
            out_DR, kept = decoder.run_layer(
                head["block"], cache[number], states.residual_DR, places, cfg,
                cfg.num_layers,
            )  # fmt: skip
            written.append(kept)
            found.append(_at(decoder.norm(head["norm"], out_DR, cfg), last_B))
        else:
            found.append(_state(head, hidden_DB))
    return found, tuple(written)


def _state(head: Params, h_DB: jax.Array) -> jax.Array:
    """What a head makes of the trunk's state; which it is, its parameters tell.

    The formulas are those of `shared/head_types.py`.
    """
    if "inner" in head:  # residual
        return h_DB + head["outer"] @ jax.nn.silu(head["inner"] @ h_DB)
    if "kernel" in head:  # medusa
        return h_DB + jax.nn.silu(head["kernel"] @ h_DB + head["bias"][:, None])
    return h_DB  # linear


def draft(
    params: Params,
    states: list[jax.Array],
    controls: Controls,
    place_B: jax.Array,
    token_map_N: jax.Array | None,
) -> jax.Array:
    """`token_BJ`, each the head's most probable token, or drawn by its distribution.

    Args:
      place_B: of the token that the model has chosen; head k drafts for `place + k`.
      token_map_N: the ids that heads score, whose rows `params["draft"]` has.
    """
    B, J = place_B.shape[0], len(states)
    logits_VR = logits_of(params, states, token_map_N)
    repeated = controls.repeated(J)
    place_R = (place_B[:, None] + jnp.arange(1, J + 1)[None]).reshape(-1)

    def draw(logits_VR):
        of_all_RV = noise(repeated.key_R2, place_R, params["embed"].shape[0])
        own_RV = of_all_RV if token_map_N is None else of_all_RV[:, token_map_N]
        cold_R = repeated.temperature_R == 0
        scaled_VR = logits_VR / jnp.where(cold_R, 1, repeated.temperature_R)[None]
        return argmax(scaled_VR + jnp.where(cold_R[None], 0, own_RV.T))

    warm = jnp.any(controls.temperature_R > 0)
    index_R = jax.lax.cond(warm, draw, argmax, logits_VR)
    token_R = index_R if token_map_N is None else token_map_N[index_R]
    return token_R.reshape(B, J).astype(jnp.int32)


def logits_of(
    params: Params, states: list[jax.Array], token_map_N: jax.Array | None
) -> jax.Array:
    """`[V, B J]`; heads without an unembedding of their own read one together."""
    if "unembed" in params["heads"][0]:
        pairs = zip(params["heads"], states, strict=True)
        each = [decoder.product(head["unembed"], x_DB) for head, x_DB in pairs]
        logits_VBJ = jnp.stack(each, axis=2)
        return logits_VBJ.reshape(logits_VBJ.shape[0], -1).astype(jnp.float32)
    state_DBJ = jnp.stack(states, axis=2)
    matrix_VD = params["draft"] if token_map_N is not None else params["unembed"]
    state_DR = state_DBJ.reshape(state_DBJ.shape[0], -1)
    return decoder.product(matrix_VD, state_DR).astype(jnp.float32)


def with_draft_rows(params: Params, token_map: list[int] | None) -> Params:
    """The parameters with the rows of the unembedding that heads score.

    A head that has its own keeps no other rows of it.
    """
    if token_map is None or not params["heads"]:
        return params
    rows_N = jnp.asarray(token_map)
    if "unembed" not in params["heads"][0]:
        return params | {"draft": params["unembed"][rows_N]}
    cut = [head | {"unembed": head["unembed"][rows_N]} for head in params["heads"]]
    return params | {"heads": tuple(cut)}


def _at(x_DR: jax.Array, last_B: jax.Array) -> jax.Array:
    """`[D, B]`: of each row the token `last_B` of its block."""
    B = last_B.shape[0]
    x_DBT = x_DR.reshape(x_DR.shape[0], B, -1)
    return jnp.take_along_axis(x_DBT, last_B[None, :, None], axis=2)[:, :, 0]
