"""What a training step changes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from shared.config import Config
from wmtp_jax import critic, model


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The arrays of a run; no functions, no optimizer, no config.

    Attributes:
      step: updates made so far.
      params: `trunk`, `heads` (k >= 1) and, for the critic, `value`.
      opt_state: optax state of `params`.
      key: root key of the run; never advanced, a step folds its number in.
    """

    step: jax.Array
    params: model.Params
    opt_state: Any
    key: jax.Array


def init_params(cfg: Config) -> model.Params:
    """Parameters of a run before any training, from `cfg.seed` alone."""
    model_key, value_key = jax.random.split(jax.random.key(cfg.seed))
    params = model.init_params(model_key, cfg.model, cfg.heads)
    if cfg.algo == "critic":
        params["value"] = critic.init_value_head(value_key, cfg.model.width)
    return params


def make_state(cfg: Config, tx: optax.GradientTransformation) -> TrainState:
    """Step 0 of a run from its seed, as one program: op by op it takes seconds."""
    return jax.jit(lambda: init_state(cfg, init_params(cfg), tx))()


def init_state(
    cfg: Config, params: model.Params, tx: optax.GradientTransformation
) -> TrainState:
    """Step 0 of a run with these parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        key=jax.random.key(cfg.seed + 1),
    )
