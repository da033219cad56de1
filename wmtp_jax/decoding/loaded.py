"""A model to decode with: a run, one of its checkpoints, an export, a model folder."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from shared.config.fields import HeadsConfig, MachineConfig
from shared.config.layers import MODELS, build, load_config, preset_names
from shared.config.model import ModelConfig
from shared.data.tokenizer import Tokenizer, load_tokenizer
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.generation import read_generation
from shared.huggingface.hub import model_folder
from shared.huggingface.layers import layers_of, read_layers
from shared.huggingface.token_map import read_token_map
from shared.state.model_source import tokenizer_of_run
from shared.state.run_folder import check_backend, named_step, run_of
from wmtp_jax import NAME, checkpoint
from wmtp_jax.decoding import draft_heads
from wmtp_jax.decoding.decoder import Params


@dataclass(frozen=True)
class Loaded:
    """A model on the device.

    Attributes:
      name: as the user called it.
      params: layer by layer (`shared/huggingface/layers.py`), in `dtype`.
      ends: tokens that end a text: the tokenizer's eos, and all that the model's
        `generation_config.json` names.
      token_map: ids that the heads score when they draft; None: all.
    """

    name: str
    cfg: ModelConfig
    heads: HeadsConfig
    params: Params
    tokenizer: Tokenizer
    ends: tuple[int, ...]
    dtype: str = "float32"
    token_map: tuple[int, ...] | None = None


def load(
    name: str, machine: MachineConfig, *, heads: bool = True, revision: str = ""
) -> Loaded:
    """Reads what `--model` names; one tensor after the other, nothing twice.

    Args:
      name: a run's folder (the model that it exported, else its newest checkpoint),
        RUN/checkpoints/STEP, an exported or Hugging Face folder, or a hub name.
      heads: whether heads k >= 1 are wanted.

    Raises:
      ValueError: if it is none of them, or holds no model that can be decoded.
    """
    place = partial(jnp.asarray, dtype=machine.dtype)
    if name in preset_names(MODELS):
        raise ValueError(
            f"--model must hold weights, got the preset {name!r}, which is a shape only"
        )
    run = run_of(name)
    if run is None:
        folder = model_folder(name, revision, "--model")
        found = _of_folder(folder, heads, place)
    elif named_step(name) is None and (run / "model").is_dir():
        found = _of_folder(run / "model", heads, place)
    else:
        found = _of_checkpoint(run, named_step(name), heads, place)
    params = draft_heads.with_draft_rows(found.params, found.token_map)
    return replace(found, name=name, dtype=machine.dtype, params=params)


def without_heads(model: Loaded) -> Loaded:
    """The model alone; nothing is copied."""
    params = {name: x for name, x in model.params.items() if name != "draft"}
    heads = replace(model.heads, count=1, weight=(), only=False, target="data")
    return replace(model, heads=heads, params=params | {"heads": ()}, token_map=None)


def _of_folder(folder: Path, heads: bool, place: Any) -> Loaded:
    described = read_hf_config(folder)
    if described.kind != "causal":
        raise ValueError(
            f"--model must be a causal language model, got a sequence classifier in "
            f"{folder}"
        )
    count = described.num_heads if heads else 1
    layer = described.layer | {"data.max_length": count + 1, "heads.count": count}
    if described.head_type and count > 1:
        layer["heads.type"] = described.head_type
    cfg = build(layer)
    tokenizer = load_tokenizer(str(folder), "the tokenizer of --model")
    params = read_layers(folder, cfg.model, cfg.heads, place)
    generation = read_generation(folder)
    found = _loaded(cfg.model, cfg.heads, params, tokenizer, generation)
    return _with_map(found, folder, count > 1)


def _of_checkpoint(run: Path, step: int | None, heads: bool, place: Any) -> Loaded:
    instead = f"name its export, {run / 'model'}, or write one: "
    check_backend(run, NAME, instead + "python -m wmtp_torch_mps.export")
    cfg = load_config(run / "config.yaml")
    tokenizer = tokenizer_of_run(run, cfg)
    _, state, _ = checkpoint.read_run(run, cfg, step)
    of_heads = cfg.heads if heads else HeadsConfig(count=1)
    tree = state.params if of_heads.count > 1 else {**state.params, "heads": {}}
    params = layers_of(tree, cfg.model, of_heads, place)
    generation = dict(tokenizer.generation)
    found = _loaded(cfg.model, of_heads, params, tokenizer, generation)
    return _with_map(found, run, of_heads.count > 1)


def _loaded(
    cfg: ModelConfig,
    heads: HeadsConfig,
    params: Params,
    tokenizer: Tokenizer,
    generation: dict[str, Any],
) -> Loaded:
    ends = generation.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    known = {tokenizer.eos_id, *(x for x in ends if type(x) is int)}
    return Loaded(
        name="",
        cfg=cfg,
        heads=heads,
        params=params,
        tokenizer=tokenizer,
        ends=tuple(sorted(x for x in known if 0 <= x < cfg.vocab_size)),
    )


def _with_map(found: Loaded, folder: Path, heads: bool) -> Loaded:
    """The model with the ids that its heads draft, where its folder names them."""
    ids = read_token_map(folder, found.cfg.vocab_size) if heads else None
    return found if ids is None else replace(found, token_map=tuple(ids))
