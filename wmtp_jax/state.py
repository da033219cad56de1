"""What a training step changes."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from shared.config.fields import Config
from wmtp_jax import layout
from wmtp_jax.init_params import init_params, load_params
from wmtp_jax.model import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrainState:
    """The arrays of a run; no functions, no optimizer, no config.

    Attributes:
      step: updates made so far.
      params: `trunk`, `heads` (k >= 1) and, for the critic, `value`.
      opt_state: optax state of those that learn (`learning_of`).
      key: root key of the run; never advanced, a step folds its number in.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    key: jax.Array


def learning_of(params: Params, cfg: Config) -> Params:
    """The parameters that learn: all, or with `heads.only` all but the trunk's."""
    if not cfg.heads.only:
        return params
    return {name: part for name, part in params.items() if name != "trunk"}


def make_state(
    cfg: Config, tx: optax.GradientTransformation, mesh: Mesh | None = None
) -> TrainState:
    """Step 0 of a run: its start parameters, and moments that are 0.

    Args:
      mesh: whose devices keep them; the first device without.
    """
    params = load_params(cfg, mesh)
    make = partial(_without_params, cfg, tx, params)
    lies = None if mesh is None else layout.kept_of(mesh, make)
    rest = jax.jit(make, out_shardings=lies)()
    return TrainState(params=params, **rest)


def abstract_state(cfg: Config, tx: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of `make_state`, without any array."""
    return jax.eval_shape(lambda: init_state(cfg, init_params(cfg), tx))


def init_state(
    cfg: Config, params: Params, tx: optax.GradientTransformation
) -> TrainState:
    """Step 0 of a run with these parameters."""
    return TrainState(params=params, **_without_params(cfg, tx, params))


def tensor_names(tree: Any) -> list[str]:
    """The arrays of a tree by their dotted names, in the order of its leaves."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(x, simple=True, separator=".") for x, _ in paths]


def _without_params(
    cfg: Config, tx: optax.GradientTransformation, params: Params
) -> dict[str, Any]:
    return {
        "step": jnp.zeros((), jnp.int32),
        "opt_state": tx.init(learning_of(params, cfg)),
        "key": jax.random.key(cfg.seed + 1),
    }
