"""The parameters a run starts from: random, or those of a Hugging Face folder."""

import jax
import jax.numpy as jnp

from shared.config.fields import Config
from shared.huggingface.config_json import read_hf_config
from shared.huggingface.folder import read_model
from shared.state.model_source import check_folder, find_folder, takes_heads
from wmtp_jax import critic
from wmtp_jax.heads import init_heads
from wmtp_jax.heads import init_params as random_params
from wmtp_jax.model import Params


def init_params(cfg: Config) -> Params:
    """Random parameters of a run, from `cfg.seed` alone: the shapes of every start."""
    model_key, value_key = jax.random.split(jax.random.key(cfg.seed))
    params = random_params(model_key, cfg.model, cfg.heads)
    if cfg.algorithm.value_head:
        params["value"] = critic.init_value_head(value_key, cfg.model.width)
    return params


def load_params(cfg: Config) -> Params:
    """Parameters of a run before any training.

    A folder gives the trunk, and, unless `heads.fresh` is set, those of heads k >= 1
    and value head that it has; the rest is random. As one program: op by op it takes
    seconds.
    """
    folder = find_folder(cfg)
    if folder is None:
        return jax.jit(lambda: init_params(cfg))()
    check_folder(cfg, folder)
    has_heads = takes_heads(cfg, read_hf_config(folder))
    needs_value = cfg.algorithm.value_head
    extras = has_heads or (needs_value and not cfg.heads.fresh)
    stored = read_model(folder, cfg.model, extras=extras)
    has_value = needs_value and "value" in stored

    def rest(trunk: Params) -> Params:
        model_key, value_key = jax.random.split(jax.random.key(cfg.seed))
        made: Params = {}
        if not has_heads:
            made["heads"] = init_heads(
                jax.random.split(model_key)[1], trunk, cfg.model, cfg.heads
            )
        if needs_value and not has_value:
            made["value"] = critic.init_value_head(value_key, cfg.model.width)
        return made

    params = {"trunk": jax.tree.map(jnp.asarray, stored["trunk"])}
    if has_heads:
        first = cfg.heads.count - 1
        params["heads"] = jax.tree.map(
            lambda x: jnp.asarray(x[:first]), stored["heads"]
        )
    if has_value:
        params["value"] = jax.tree.map(jnp.asarray, stored["value"])
    return params | jax.jit(rest)(params["trunk"])
