"""The parameters a run starts from: random, or those of a Hugging Face folder."""

from functools import partial

import jax
from jax.sharding import Mesh

from shared.config.fields import Config
from shared.state.model_source import open_params
from wmtp_jax import critic, layout
from wmtp_jax.heads import init_heads
from wmtp_jax.heads import init_params as random_params
from wmtp_jax.model import Params
from wmtp_jax.sharding import mesh_of


def init_params(cfg: Config) -> Params:
    """Random parameters of a run, from `cfg.seed` alone: the shapes of every start."""
    model_key, value_key = jax.random.split(jax.random.key(cfg.seed))
    params = random_params(model_key, cfg.model, cfg.heads)
    if cfg.algorithm.value_head:
        params["value"] = critic.init_value_head(value_key, cfg.model.width)
    return params


def load_params(cfg: Config, mesh: Mesh | None = None) -> Params:
    """Parameters of a run before any training, on the devices that keep them.

    A folder gives the trunk, and, unless `heads.fresh` is set, those of heads k >= 1
    and value head that it has; the rest is random. As one program: op by op it takes
    seconds.
    """
    mesh = mesh or mesh_of(jax.devices()[:1])
    stored = open_params(cfg)
    if stored is None:
        make = partial(init_params, cfg)
        return jax.jit(make, out_shardings=layout.kept_of(mesh, make))()

    def rest(trunk: Params) -> Params:
        model_key, value_key = jax.random.split(jax.random.key(cfg.seed))
        made: Params = {}
        if "heads" not in stored:
            made["heads"] = init_heads(
                jax.random.split(model_key)[1], trunk, cfg.model, cfg.heads
            )
        if cfg.algorithm.value_head and "value" not in stored:
            made["value"] = critic.init_value_head(value_key, cfg.model.width)
        return made

    params = layout.read_leaves(stored, mesh)
    lies = layout.kept_of(mesh, lambda: rest(params["trunk"]))
    return params | jax.jit(rest, out_shardings=lies)(params["trunk"])
