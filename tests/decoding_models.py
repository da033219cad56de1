"""Small models to decode with, engines over them, and what is right by other means."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from shared.config.fields import Config, HeadsConfig
from shared.config.layers import build
from shared.config.model import ModelConfig
from shared.data.tokenizer import load_tokenizer
from shared.decoding.requests import Piece, Request, Sampling
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.layers import layers_of, read_layers
from tests import hf_models
from tests.trees import random_params
from wmtp_jax import heads as trained_heads
from wmtp_jax import model as trained_model
from wmtp_jax.decoding import draft_heads
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import Loaded

V = 64  # of the models that cycle; their width, too
PERIOD = 5
END = 1


def opened(folder: Path, dtype: str = "float32") -> Loaded:
    """A model folder without a tokenizer, which says bytes."""
    described = read_hf_config(folder)
    count = described.num_heads
    layer = described.layer | {"data.max_length": count + 1, "heads.count": count}
    if count > 1:
        layer["heads.type"] = described.head_type
    cfg = build(layer)
    params = read_layers(
        folder, cfg.model, cfg.heads, partial(jnp.asarray, dtype=dtype)
    )
    return _loaded(cfg.model, cfg.heads, params, dtype=dtype)


def _loaded(cfg, heads, params, **more) -> Loaded:
    return Loaded(
        name="small",
        cfg=cfg,
        heads=heads,
        params=params,
        tokenizer=load_tokenizer("bytes"),
        ends=(END,),
        **more,
    )


def with_map(model: Loaded, ids: tuple[int, ...]) -> Loaded:
    """The model with heads that score only those ids."""
    params = draft_heads.with_draft_rows(model.params, ids)
    return replace(model, params=params, token_map=ids)


def trained(cfg: ModelConfig, heads: HeadsConfig, params, **more) -> Loaded:
    """A trainer's parameters, to decode with."""
    place = partial(jnp.asarray, dtype=more.get("dtype", "float32"))
    return _loaded(cfg, heads, layers_of(params, cfg, heads, place), **more)


# A model whose next token follows from the last one alone.


def follows(token: np.ndarray | int, times: int = 1) -> np.ndarray | int:
    """The token so many places behind one: each goes round in a circle of PERIOD."""
    start = token - token % PERIOD
    turned = start + (token + times) % PERIOD
    return np.where(np.asarray(start) + PERIOD <= V, turned, token)


@cache
def cycling(
    head_type: str = "", count: int = 4, sharpness: float = 1.0, right: float = 1.0
) -> Loaded:
    """Says `follows` of the last token; its heads, if any, know what comes.

    Args:
      sharpness: the likeliest token's logit is 8 times it above all others'.
      right: share of the tokens at which the heads are right.
    """
    cfg = ModelConfig(
        family="llama",
        num_layers=1,
        width=V,
        num_attention_heads=4,
        num_kv_heads=2,
        ffn_width=V,
        activation="silu",
        vocab_size=V,
        max_positions=1024,
        **{"qkv_bias": False, "out_bias": False, "mlp_bias": False},
        tie_embeddings=False,
    )
    heads = HeadsConfig(count=count if head_type else 1, type=head_type or "linear")
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: np.ones_like(x) if path[-1].key == "scale" else x,
        random_params(cfg, heads),
    )
    trunk, one = params["trunk"], np.eye(V, dtype=np.float32)
    blocks = trunk["blocks"]
    nothing = {"down": jax.tree.map(np.zeros_like, blocks["down"])}
    out = jax.tree.map(np.zeros_like, blocks["attention"]["out"])
    nothing["attention"] = blocks["attention"] | {"out": out}
    trunk = trunk | {"embed": one, "blocks": blocks | nothing}
    trunk["unembed"] = sharpness * moved(1)
    known = np.arange(V) % 10 < round(10 * right)
    own = [_knowing(head_type, k, known, sharpness) for k in range(1, count)]
    given = jax.tree.map(lambda *x: np.stack(x), *own) if head_type else {}
    if head_type == "block":
        copied = params["heads"]["blocks"]
        out = jax.tree.map(np.zeros_like, copied["attention"]["out"])
        given = given | {"attention": copied["attention"] | {"out": out}}
        given = {"blocks": copied | given, "norms": params["heads"]["norms"]}
    return trained(cfg, heads, {"trunk": trunk, "heads": given})


def moved(times: int) -> np.ndarray:
    """`[V, D]`: the row of a token is the state of the one it follows."""
    matrix_VD = np.zeros((V, V), np.float32)
    matrix_VD[follows(np.arange(V), times), np.arange(V)] = 1
    return matrix_VD


def _knowing(head_type: str, k: int, known: np.ndarray, sharpness: float):
    """Head k's parameters: it drafts `follows(., k + 1)` of what is known."""
    turn_DD = np.where(known[None], moved(k), np.eye(V, dtype=np.float32))
    one = np.eye(V, dtype=np.float32)
    if head_type == "linear":
        return {"unembed": sharpness * moved(1) @ turn_DD}
    if head_type == "residual":  # [in, out]
        return {"inner": one, "outer": (turn_DD - one).T}
    if head_type == "medusa":
        return {"kernel": 4 * turn_DD.T, "bias": np.zeros(V, np.float32)}
    return {
        "gate": {"kernel": one},
        "up": {"kernel": one},
        "down": {"kernel": turn_DD.T},
    }


# What is right.


def logits_of(model, ids: list[int]) -> np.ndarray:
    """`[L, V]` of a model of `transformers`."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def trainers_states(cfg: Config, params, ids: list[int]) -> np.ndarray:
    """`[K, L, D]`: what the heads of the trainer's own forward read."""
    tokens_BL = jnp.asarray([ids], jnp.int32)
    places_BL = jnp.arange(len(ids))[None]
    whole = jnp.ones_like(tokens_BL)

    def run(params):
        out = trained_model.forward(
            params["trunk"], tokens_BL, places_BL, whole, cfg.model
        )
        return trained_heads.head_states(params, out, cfg)[:, 0]

    return np.asarray(jax.jit(run)(params))


# Engines.

ENGINES: dict[tuple[int, int, str], Engine] = {}
KEPT: list[Loaded] = []  # so that no two have the same id


def engine(model: Loaded, rows: int = 4, drafter: str = "none") -> Engine:
    """An engine at rest, made once per model: its programs are compiled once."""
    key = id(model), rows, drafter
    if key not in ENGINES:
        KEPT.append(model)
        ENGINES[key] = Engine(model, rows=rows, drafter=drafter)
    assert not ENGINES[key].busy
    return ENGINES[key]


def asked(ids, count: int = 20, **more) -> Request:
    """A request; what is no field of it is one of its sampling."""
    own = {
        name: more.pop(name) for name in ("samples", "logprobs", "echo") if name in more
    }
    sampling = Sampling(max_tokens=count, **more)
    return Request(prompt=tuple(int(x) for x in ids), sampling=sampling, **own)


def answers(engine: Engine, *requests: Request) -> list[list[Piece]]:
    """Of each request the samples, each one whole piece."""
    numbers = {engine.submit(request): i for i, request in enumerate(requests)}
    found = [[[] for _ in range(request.samples)] for request in requests]
    while engine.busy:
        for piece in engine.step():
            found[numbers[piece.request]][piece.sample].append(piece)
    return [[whole(pieces) for pieces in samples] for samples in found]


def whole(pieces: list[Piece]) -> Piece:
    """The pieces of one sample, put together; only the last one ends it."""
    assert pieces[-1].finish and not any(piece.finish for piece in pieces[:-1])
    assert not any(piece.prompt_logprobs for piece in pieces[1:])
    first, last = pieces[0], pieces[-1]
    return replace(
        last,
        text="".join(piece.text for piece in pieces),
        tokens=sum((piece.tokens for piece in pieces), ()),
        logprobs=sum((piece.logprobs for piece in pieces), ()),
        top=sum((piece.top for piece in pieces), ()),
        prompt_logprobs=first.prompt_logprobs,
        prompt_top=first.prompt_top,
    )


def tokens_of(engine: Engine, *requests: Request) -> list[tuple[int, ...]]:
    """The tokens of every sample."""
    found = answers(engine, *requests)
    return [piece.tokens for samples in found for piece in samples]


def random_model(folder: Path, case: str, **changes):
    """A model of `transformers`, and ours of its folder."""
    theirs = hf_models.make(case, **changes)
    return theirs, opened(hf_models.save(theirs, folder))
