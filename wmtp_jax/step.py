"""One update, and one evaluation pass: pure functions, and the makers that jit them.

    gradient = grad_L / W + value_loss_coef * grad_V / N

`grad_L`, `W`, `grad_V`, `N` are summed over micro-batches (a scan) and devices (by the
sharding of the rows) and divided once, so 1 x 8 and 8 x 1 are the same step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from shared.algorithms import Extremes, Sums, gradient_scales, step_metrics
from shared.config.fields import Config
from shared.data.batches import Batch
from shared.data.packing import documents_per_row
from shared.run.finite import NOT_FINITE
from wmtp_jax import critic, layout, sharding
from wmtp_jax.loss import micro_batch_sums, run_heads
from wmtp_jax.optimizer import freeze_trunk, made_if, make_schedule
from wmtp_jax.state import TrainState, abstract_state, learning_of


def gradients(
    params: Any,
    batch: Batch,
    cfg: Config,
    dropout_key: jax.Array | None,
    *,
    mesh: Mesh | None = None,
) -> tuple[Any, Any, Sums, Extremes]:
    """`(grad_L, grad_V, sums, extremes)` of one micro-batch; grad_V is `{}` if none.

    Gradients are of what learns, `learning_of` the parameters.
    While the value loss stays out of the trunk, the two gradients touch different
    parameters (weights are constants), so one backward pass gives both.
    """

    def losses(learning):
        whole = {**params, **learning}
        sums, extremes = micro_batch_sums(whole, batch, cfg, dropout_key, mesh=mesh)
        return (sums.loss_sum, sums.value_sum), (sums, extremes)

    _, pull_back, (sums, extremes) = jax.vjp(
        losses, learning_of(params, cfg), has_aux=True
    )
    one, zero = jnp.ones(()), jnp.zeros(())
    if cfg.algorithm.value_head and cfg.critic.trunk_gradient:
        (grad_L,), (grad_V,) = pull_back((one, zero)), pull_back((zero, one))
        return grad_L, grad_V, sums, extremes
    (both,) = pull_back((one, one))
    if not cfg.algorithm.value_head:
        return both, {}, sums, extremes
    silent = jax.tree.map(jnp.zeros_like, both["value"])
    return {**both, "value": silent}, {"value": both["value"]}, sums, extremes


def accumulate(
    state: TrainState, batches: Batch, cfg: Config, *, mesh: Mesh | None = None
) -> tuple[Any, Sums, Extremes]:
    """Gradient of the loss over all micro-batches `[A, B, L]`, divided once."""
    step_key = jax.random.fold_in(state.key, state.step)
    use_dropout = cfg.model.dropout > 0

    def one(number, batch):
        key = jax.random.fold_in(step_key, number) if use_dropout else None
        return gradients(state.params, batch, cfg, key, mesh=mesh)

    first = jax.tree.map(lambda x: x[0], batches)
    if batches.tokens_BL.shape[0] == 1:  # nothing to add up: two passes less
        grad_L, grad_V, sums, extremes = one(0, first)
        return divide(grad_L, grad_V, sums, cfg), sums, extremes

    def micro(carry, inputs):
        grad_L, grad_V, sums, extremes = one(*inputs)
        (total_L, total_V, total), extreme = carry
        added = jax.tree.map(jnp.add, (total_L, total_V, total), (grad_L, grad_V, sums))
        extreme = Extremes(
            smallest=jnp.minimum(extreme.smallest, extremes.smallest),
            largest=jnp.maximum(extreme.largest, extremes.largest),
        )
        return (added, extreme), None

    shapes = jax.eval_shape(lambda: one(0, first)[:3])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    start = (zeros, Extremes(jnp.array(jnp.inf), jnp.array(-jnp.inf)))
    numbers = jnp.arange(batches.tokens_BL.shape[0])
    ((grad_L, grad_V, sums), extremes), _ = jax.lax.scan(
        micro, start, (numbers, batches)
    )
    gradient = divide(grad_L, grad_V, sums, cfg)
    return gradient, sums, extremes


def divide(grad_L: Any, grad_V: Any, sums: Sums, cfg: Config) -> Any:
    """`grad_L / W + value_loss_coef * grad_V / N`; a part with nothing in it is 0."""
    scale_L, scale_V = gradient_scales(sums, cfg)
    gradient = jax.tree.map(lambda g: g * scale_L, grad_L)
    for name, group in grad_V.items():
        gradient[name] = jax.tree.map(
            lambda g, v: g + scale_V * v, gradient[name], group
        )
    return gradient


def train_step(
    state: TrainState,
    batches: Batch,
    *,
    cfg: Config,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update over the micro-batches `[A, B, L]`: `(new state, metrics)`.

    Where a metric or a gradient is not finite, no update is made: parameters, moments
    and Adam's count stay as they are, and the step counts as a step.
    """
    gradient, sums, extremes = accumulate(state, batches, cfg, mesh=mesh)
    metrics = step_metrics(sums, extremes, cfg)
    metrics["grad_norm_trunk"] = optax.tree.norm(gradient.get("trunk", {}))
    others = {name: group for name, group in gradient.items() if name != "trunk"}
    metrics["grad_norm_heads"] = optax.tree.norm(others) if others else jnp.zeros(())
    metrics[NOT_FINITE] = first_not_finite(gradient, metrics)
    made = metrics[NOT_FINITE] < 0
    metrics["lr"] = jnp.asarray(schedule(state.step), jnp.float32)
    frozen = state.step < cfg.head_warmup
    if cfg.head_warmup:
        gradient = freeze_trunk(gradient, frozen)
    learning = learning_of(state.params, cfg)
    update = optax.with_extra_args_support(tx).update
    updates, opt_state = update(gradient, state.opt_state, learning, made=made)
    if cfg.head_warmup:  # weight decay moves parameters without a gradient, too
        updates = freeze_trunk(updates, frozen)
    # Chosen number by number where the update is added: no pass of its own.
    learned = jax.tree.map(
        lambda new, old: jnp.where(made, new, old),
        optax.apply_updates(learning, updates),
        learning,
    )
    waits = frozen if cfg.head_warmup else False
    new_state = TrainState(
        step=state.step + 1,
        params={**state.params, **learned},
        opt_state=made_if(made, opt_state, state.opt_state, waits),
        key=state.key,
    )
    return new_state, metrics


def first_not_finite(gradient: Any, metrics: dict[str, jax.Array]) -> jax.Array:
    """The place of the first tensor whose gradient is not finite, or -1; how many there
    are where only a metric is not.
    """
    # The squares of the norms: computed once, and nothing more is read for it.
    squares = [optax.tree.norm(x, squared=True) for x in jax.tree.leaves(gradient)]
    bad_T = ~jnp.isfinite(jnp.stack(squares))
    finite = jnp.all(jnp.isfinite(jnp.stack([*metrics.values()])))
    without = jnp.where(finite, -1, len(squares))
    return jnp.where(jnp.any(bad_T), jnp.argmax(bad_T), without)


def make_train_step(
    cfg: Config, tx: optax.GradientTransformation, num_steps: int, mesh: Mesh
) -> tuple[Callable[..., Any], list[int]]:
    """The jitted step, and a list that grows by one entry at every trace of it."""
    schedule = make_schedule(cfg.optimizer, num_steps)
    traces: list[int] = []

    def step(state: TrainState, batches: Batch):
        traces.append(len(traces))
        return train_step(state, batches, cfg=cfg, tx=tx, schedule=schedule, mesh=mesh)

    whole = sharding.replicated(mesh)
    kept = layout.kept_of(mesh, lambda: abstract_state(cfg, tx))
    rows = sharding.split_rows(mesh, micro_batches=True)
    jitted = jax.jit(
        step,
        in_shardings=(kept, rows),
        out_shardings=(kept, whole),
        donate_argnames=("state",),
    )
    return jitted, traces


def abstract_batch(cfg: Config) -> Batch:
    """Shapes and dtypes of the batches `[A, B, L]` that a run trains on."""
    shape = (cfg.train.accumulation, cfg.data.batch_size, cfg.data.max_length)
    types = {"target_BL": jnp.bool_, "noise_BL": jnp.float32}
    names = ("tokens_BL", "document_BL", "positions_BL", "permutation_BL")
    types |= {name: jnp.int32 for name in names}
    number = jax.ShapeDtypeStruct(shape, jnp.float32)
    return Batch(
        **{name: jax.ShapeDtypeStruct(shape, type_) for name, type_ in types.items()},
        signals={name: number for name in cfg.algorithm.signals},
        num_documents=documents_per_row(cfg.data.max_length, cfg.data.layout),
    )


def compile_step(jitted: Any, state: TrainState, cfg: Config) -> Any:
    """The step compiled before the first batch is there; as fast, and told apart."""
    return jitted.lower(state, abstract_batch(cfg)).compile()


def eval_step(
    params: Any, batch: Batch, *, cfg: Config, mesh: Mesh | None = None
) -> dict[str, jax.Array]:
    """Unweighted sums over every target of `[B, L]` rows, and what they are sums of.

    Beside them what the critic reads. nll and values are what the weights of a row can
    be told from afterwards (`shared/inspection/`).
    """
    outputs, nll_BLK, mask_BLK = run_heads(params, batch, cfg, mesh=mesh)
    result = {
        "nll_BLK": nll_BLK,
        "nll_K": jnp.sum(nll_BLK, axis=(0, 1)),
        "count_K": jnp.sum(mask_BLK, axis=(0, 1)),
    }
    if cfg.algorithm.value_head:
        head, hidden_BLD = params["value"], outputs.hidden_BLD
        value_BL, return_BL = critic.fixed_returns(head, hidden_BLD, batch, cfg)
        result |= {"value_BL": value_BL, "return_BL": return_BL}
    return result


def make_eval_step(cfg: Config, mesh: Mesh) -> Callable[..., Any]:
    """The jitted evaluation pass; it compiles once per length bucket."""
    return sharding.jit_pass(partial(eval_step, cfg=cfg, mesh=mesh), mesh)
