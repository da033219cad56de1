"""What the heads k >= 1 draft: the tokens after the one that the model has chosen.

A head reads the state at the last token of the text; head k drafts the token that many
places after the model's own next one. All heads that share an unembedding read it once.

Axes: B rows, K - 1 heads k >= 1 (J), R = B J, V vocabulary, D width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from shared.config.model import ModelConfig
from wmtp_jax.decoding import decoder
from wmtp_jax.decoding.decoder import Cache, Params, Places, States
from wmtp_jax.decoding.sampler import Controls, noise


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
    B = last_B.shape[0]
    hidden_DB = _at(states.hidden_DR, last_B)
    found, written = [], []
    for number, head in enumerate(params["heads"]):
        if "block" in head:
            out_DR, kept = decoder.run_layer(
                head["block"], cache[number], states.residual_DR, places, cfg,
                cfg.num_layers,
            )  # fmt: skip
            written.append(kept)
            found.append(_at(decoder.norm(head["norm"], out_DR, cfg), last_B))
        else:
            found.append(_state(head, hidden_DB))
    assert all(x.shape[1] == B for x in found)
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
) -> tuple[jax.Array, jax.Array]:
    """`token_BJ` and the probability `share_BJ` that the head gives it.

    Args:
      place_B: of the token that the model has chosen; head k drafts for `place + k`.
      token_map_N: the ids that heads score, whose rows `params["draft"]` has.
    """
    B, J = place_B.shape[0], len(states)
    if "unembed" in params["heads"][0]:
        each = [
            decoder.product(h["unembed"], x)
            for h, x in zip(params["heads"], states, strict=True)
        ]
        logits_VBJ = jnp.stack(each, axis=2)
    else:
        state_DR = jnp.stack(states, axis=2).reshape(-1, B * J)
        matrix = params["draft"] if token_map_N is not None else params["unembed"]
        logits_VBJ = decoder.product(matrix, state_DR).reshape(-1, B, J)
    logits_RV = logits_VBJ.astype(jnp.float32).reshape(-1, B * J).T
    temperature_R1 = controls.repeated(J).temperature_R[:, None]
    scaled_RV = logits_RV / jnp.where(temperature_R1 == 0, 1, temperature_R1)
    place_R = (place_B[:, None] + jnp.arange(1, J + 1)[None]).reshape(-1)

    def noisy(x):
        of_all = noise(controls.repeated(J).key_R2, place_R, params["embed"].shape[0])
        own = of_all if token_map_N is None else of_all[:, token_map_N]
        return x + jnp.where(temperature_R1 == 0, 0, own)

    drawn_RV = jax.lax.cond(
        jnp.any(controls.temperature_R > 0), noisy, lambda x: x, scaled_RV
    )
    index_R = jnp.argmax(drawn_RV, axis=1)
    own_R = jnp.take_along_axis(scaled_RV, index_R[:, None], axis=1)[:, 0]
    share_R = jnp.exp(own_R - jax.nn.logsumexp(scaled_RV, axis=1))
    token_R = index_R if token_map_N is None else token_map_N[index_R]
    return token_R.reshape(B, J).astype(jnp.int32), share_R.reshape(B, J)


def with_draft_rows(
    params: Params, token_map: Sequence[int] | None
) -> Params:
    """The parameters with the rows of the unembedding that heads score.

    Of heads with an unembedding each, nothing else is kept of it.
    """
    if token_map is None:
        return params
    ids_N = jnp.asarray(token_map)
    if "unembed" not in params["heads"][0]:
        return params | {"draft": params["unembed"][ids_N]}
    heads = (head | {"unembed": head["unembed"][ids_N]} for head in params["heads"])
    return params | {"heads": tuple(heads)}


def _at(x_DR: jax.Array, last_B: jax.Array) -> jax.Array:
    """`[D, B]`: of each row the token `last_B` of its block."""
    B = last_B.shape[0]
    x_DBT = x_DR.reshape(x_DR.shape[0], B, -1)
    return jnp.take_along_axis(x_DBT, last_B[None, :, None], axis=2)[:, :, 0]
