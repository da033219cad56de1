"""The same training step as others would write it, in the simplest good form: JAX.

Each maker returns a function that makes one update, waits for it, and says what it did.
It walks over its batches again and again.

Axes: B rows, L positions, K heads, V vocabulary, D width, R rows of a head.
"""

from collections.abc import Callable
from itertools import cycle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from shared.config.fields import Config
from shared.data.batches import Batch
from wmtp_jax import heads, loss, sharding
from wmtp_jax.init_params import init_params
from wmtp_jax.optimizer import make_optimizer
from wmtp_jax.state import TrainState, make_state
from wmtp_jax.step import make_train_step


class Done(NamedTuple):
    """Tokens that a step trained on, and its loss before the update."""

    tokens: int
    loss: float


Step = Callable[[], Done]


def tokens_of(batch: Batch) -> int:
    """Positions that are no padding."""
    return int(np.sum(batch.document_BL > 0))


def start(cfg: Config) -> TrainState:
    """A training state on its devices."""
    tx, mesh = make_optimizer(cfg, 1000), sharding.make_mesh(cfg)
    return jax.device_put(make_state(cfg, tx), sharding.replicated(mesh))


def ours(
    cfg: Config, batches: list[Batch], held: list[TrainState] | None = None
) -> Step:
    """`wmtp_jax`'s step.

    Args:
      held: the state, if others go on from it in turn; it is used up and replaced.
    """
    tx = make_optimizer(cfg, 1000)
    step, _ = make_train_step(cfg, tx, 1000, sharding.make_mesh(cfg))
    held = [start(cfg)] if held is None else held
    coming = cycle(batches)

    def run() -> Done:
        batch = next(coming)
        held[0], metrics = step(held[0], batch)
        jax.block_until_ready((held[0].params, metrics))
        return Done(tokens_of(batch), float(metrics["loss"]))

    return run


def jax_naive(cfg: Config, batches: list[Batch]) -> Step:
    """Uniform MTP with autodiff: the logits of every head are kept."""

    def nll(states_BLD, matrix_VD, targets_BL, mask_BL):
        nll_BL = optax.softmax_cross_entropy_with_integer_labels(
            (states_BLD @ matrix_VD.T).astype(jnp.float32), targets_BL
        )
        return jnp.sum(jnp.where(mask_BL, nll_BL, 0.0))

    return _with_autodiff(cfg, batches, nll)


def jax_cce(cfg: Config, batches: list[Batch]) -> Step:
    """The same with `jax-cce`, which keeps no logits.

    It means over all rows it is given and knows no mask: rows without a target are cut
    off, which is right where documents fill their rows.
    """
    from jax_cce import linear_cross_entropy

    if not all(np.all(batch.document_BL == 1) for batch in batches):
        raise SystemExit("jax-cce has no mask: it can be measured on synthetic only")

    def nll(states_BLD, matrix_VD, targets_BL, mask_BL):
        del mask_BL
        states_RD = states_BLD.reshape(-1, states_BLD.shape[-1])
        mean = linear_cross_entropy(states_RD, matrix_VD, targets_BL.reshape(-1))
        return targets_BL.size * mean

    return _with_autodiff(cfg, batches, nll, cut=True)


def _with_autodiff(
    cfg: Config,
    batches: list[Batch],
    nll: Callable[..., jax.Array],
    *,
    cut: bool = False,
) -> Step:
    """A step of uniform MTP whose heads' nll is a function to be differentiated.

    Args:
      nll: `(states_BLD, matrix_VD, targets_BL, mask_BL)` -> sum over the mask.
      cut: give it only the positions of a row that head k has a target for.
    """
    tx = make_optimizer(cfg, 1000)
    firsts = [batch.changed(lambda x: jnp.asarray(x[0])) for batch in batches]
    coming = cycle(zip(firsts, map(tokens_of, batches), strict=True))

    def mean_nll(params, batch):
        outputs = loss.run_trunk(params, batch, cfg)
        states_KBLD = heads.head_states(params, outputs, cfg)
        shared_VD, own_KVD = heads.unembeddings(params)
        targets_BLK, mask_BLK = loss.targets_of(batch, cfg)
        total, L = 0.0, mask_BLK.shape[1]
        for k in range(cfg.heads.count):
            matrix_VD = shared_VD if k == 0 or own_KVD is None else own_KVD[k - 1]
            end = L - 1 - k if cut else L
            total += nll(
                states_KBLD[k][:, :end],
                matrix_VD.astype(states_KBLD.dtype),
                targets_BLK[:, :end, k],
                mask_BLK[:, :end, k],
            )
        return total / jnp.sum(mask_BLK)

    def update(params, opt_state, batch):
        value, gradient = jax.value_and_grad(mean_nll)(params, batch)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params = jax.jit(lambda: init_params(cfg))()
    held = [params, tx.init(params)]
    step = jax.jit(update, donate_argnums=(0, 1))

    def run() -> Done:
        batch, tokens = next(coming)
        *held[:], value = step(*held, batch)
        jax.block_until_ready((held, value))
        return Done(tokens, float(value))

    return run
