"""Optimizer and learning-rate schedule, from optax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from shared.config.fields import Config, OptimizerConfig
from shared.state.header import moment_names


def make_schedule(cfg: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Learning rate of update `n` (0, 1, ...): linear warm-up, then the schedule.

    Warm-up step `n` takes `(n + 1) / warmup_steps` of the peak, so that no update is
    wasted at rate 0. `linear` and `cosine` reach `final_lr_scale * lr` at `num_steps`.
    """
    rest = max(1, num_steps - cfg.warmup_steps)
    last = cfg.final_lr_scale
    after = {
        "constant": optax.constant_schedule(cfg.lr),
        "linear": optax.linear_schedule(cfg.lr, last * cfg.lr, rest),
        "cosine": optax.cosine_decay_schedule(cfg.lr, rest, alpha=last),
    }[cfg.schedule]
    if cfg.warmup_steps == 0:
        return after
    first = cfg.lr / cfg.warmup_steps
    warmup = optax.linear_schedule(first, cfg.lr, max(1, cfg.warmup_steps - 1))
    return optax.join_schedules([warmup, after], [cfg.warmup_steps])


def rate_of(cfg: OptimizerConfig, num_steps: int, number: int) -> float:
    """Learning rate of update `number` in a run of so many steps."""
    return float(make_schedule(cfg, num_steps)(number))


def make_optimizer(cfg: Config, num_steps: int) -> optax.GradientTransformation:
    """Clipping by global norm, the update rule, and a rate per group of parameters."""
    rule, kept_in = cfg.optimizer, cfg.machine.first_moment
    held_back = cfg.head_warmup
    schedule = make_schedule(rule, num_steps)
    decay = {"weight_decay": rule.weight_decay, "mask": is_matrix}
    if rule.name == "adamw":
        betas = {"b1": rule.beta1, "b2": rule.beta2}
        adam = _adam(**betas, eps=rule.epsilon, mu_dtype=kept_in)
        core = optax.chain(  # optax.adamw
            _adam_held_back(adam, held_back) if held_back else adam,
            optax.add_decayed_weights(**decay),
            optax.scale_by_learning_rate(schedule),
        )
    elif rule.name == "lion":
        betas = {"b1": rule.beta1, "b2": rule.beta2}
        core = optax.lion(schedule, **betas, mu_dtype=kept_in, **decay)
    else:
        momentum = rule.beta1 or None
        sgd = optax.sgd(schedule, momentum=momentum, accumulator_dtype=kept_in)
        if held_back and momentum:
            sgd = _sgd_held_back(sgd, held_back)
        core = optax.chain(optax.add_decayed_weights(**decay), sgd)
    scales = {
        "trunk": 1.0,
        "heads": rule.head_lr_scale,
        "value": rule.value_lr_scale,
    }
    return optax.chain(_clip(rule.clip_norm), core, _scale_groups(scales))


def _adam(
    b1: float, b2: float, eps: float, mu_dtype: Any
) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_adam`, whose moments stay as they are unless `made`.

    Its direction is of the moments that are kept. Of others, which nothing keeps, XLA
    would need a copy of the old ones after it has written the new ones over them.
    """

    def update(updates, state, params=None, *, made=True, **unread):
        del params, unread
        raw_mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        raw_nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        mu, nu = _chosen(made, raw_mu, state.mu), _chosen(made, raw_nu, state.nu)
        count = optax.safe_increment(state.count)
        updates = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v) + eps),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(nu, b2, count),
        )
        mu, nu = optax.tree.cast(mu, mu_dtype), optax.tree.cast_like(nu, state.nu)
        return updates, state._replace(count=count, mu=mu, nu=nu)

    init = optax.scale_by_adam(b1=b1, b2=b2, eps=eps, mu_dtype=mu_dtype).init
    return optax.GradientTransformationExtraArgs(init, update)


def _chosen(made: jax.Array | bool, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(made, n, o), new, old)


def _adam_held_back(
    adam: optax.GradientTransformationExtraArgs, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Adam whose count of the trunk, frozen for so many steps, starts after them.

    Until then the trunk's gradient is 0, and so are its moments.
    """

    def update(updates, state, params=None, **extra):
        del params
        late = jnp.maximum(state.count - steps, 0)
        found, mu, nu = {}, {}, {}
        for name, group in updates.items():
            count = late if name == "trunk" else state.count
            own = state._replace(count=count, mu=state.mu[name], nu=state.nu[name])
            found[name], own = adam.update(group, own, **extra)
            mu[name], nu[name] = own.mu, own.nu
        count = optax.safe_increment(state.count)
        return found, state._replace(count=count, mu=mu, nu=nu)

    return optax.GradientTransformationExtraArgs(adam.init, update)


def _sgd_held_back(
    sgd: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    """SGD whose momentum of the trunk holds no decay of the steps it was frozen for."""

    def update(updates, state, params=None):
        momentum, rate = state
        trace = freeze_trunk(momentum.trace, rate.count <= steps)
        return sgd.update(updates, (momentum._replace(trace=trace), rate), params)

    return optax.GradientTransformation(sgd.init, update)


def is_matrix(params: Any) -> Any:
    """True for the parameters that decay: matrices; not norms, biases, positions."""

    def decays(path, leaf) -> bool:
        names = [entry.key for entry in path]
        return names[-1] in {"kernel", "embed", "unembed", "inner", "outer"}

    return jax.tree_util.tree_map_with_path(decays, params)


def _clip(largest: float) -> optax.GradientTransformation:
    """Scales the gradient down to a global norm of at most `largest`.

    `optax.clip_by_global_norm` divides every number; here the one factor is divided,
    so that XLA multiplies with it where moments read the gradient, and never writes a
    clipped gradient to memory.
    """

    def update(updates, state, params=None):
        del params
        factor = largest / jnp.maximum(optax.tree.norm(updates), largest)
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _scale_groups(scales: dict[str, float]) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        del params
        return {
            name: jax.tree.map(lambda u, s=scales[name]: u * s, group)
            for name, group in updates.items()
        }, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def moments_of(opt_state: Any, cfg: OptimizerConfig) -> dict[str, Any]:
    """Moment -> tree like the parameters, float32: for the other trainer to go on."""
    return {
        name: optax.tree.cast(optax.tree_utils.tree_get(opt_state, key), jnp.float32)
        for name, key in _moments(cfg).items()
    }


def with_moments(
    opt_state: Any,
    cfg: OptimizerConfig,
    moments: dict[str, Any],
    step: int,
    updates: int,
) -> Any:
    """The inverse of `moments_of`, after so many steps.

    Args:
      updates: what Adam has counted; a trainer in float16 leaves some steps out (but
        those of a head warm-up, from whose end the trunk's are counted).
    """

    def placed(now: jax.Array, given: Any) -> jax.Array:
        return jax.device_put(np.asarray(given, now.dtype), now.sharding)

    named = {
        key: jax.tree.map(
            placed, optax.tree_utils.tree_get(opt_state, key), moments[name]
        )
        for name, key in _moments(cfg).items()
    }
    count = jnp.asarray(step, jnp.int32)
    state = optax.tree_utils.tree_set(opt_state, **named, count=count)
    if cfg.name != "adamw":
        return state
    return optax.tree_utils.tree_set(
        state, _counted_by_adam, count=jnp.asarray(updates, jnp.int32)
    )


def updates_of(opt_state: Any, step: int) -> int:
    """What Adam has counted, else the step."""
    found = optax.tree_utils.tree_get(
        opt_state, "count", step, filtering=_counted_by_adam
    )
    return int(found)


def _counted_by_adam(path: Any, value: Any) -> bool:
    """Whether a `count` in optax's state is Adam's, not the schedule's."""
    del value
    return getattr(path[-1], "tuple_name", "") == "ScaleByAdamState"


def _counted_by_schedule(path: Any, value: Any) -> bool:
    del value
    return getattr(path[-1], "tuple_name", "") == "ScaleByScheduleState"


def made_if(made: jax.Array, new: Any, old: Any, frozen: jax.Array | bool) -> Any:
    """Optax's state after an update that is made, or else is skipped.

    The schedule counts steps, whatever they do. Adam has chosen its moments already; it
    counts updates, but in a head warm-up (`frozen`) steps too: from its end the trunk's
    are counted.
    """
    get, put = optax.tree_utils.tree_get, optax.tree_utils.tree_set
    updates = get(new, "count", None, filtering=_counted_by_adam)
    if updates is None:
        steps = get(new, "count", filtering=_counted_by_schedule)
        return put(_chosen(made, new, old), _counted_by_schedule, count=steps)
    before = get(old, "count", filtering=_counted_by_adam)
    updates = jnp.where(made | jnp.asarray(frozen), updates, before)
    return put(new, _counted_by_adam, count=updates)


def _moments(cfg: OptimizerConfig) -> dict[str, str]:
    """Moment -> its field in optax's state."""
    fields = {"adamw": {"first": "mu", "second": "nu"}, "sgd": {"first": "trace"}}
    of_rule = fields.get(cfg.name, {"first": "mu"})
    return {name: of_rule[name] for name in moment_names(cfg)}


def freeze_trunk(updates: Any, frozen: jax.Array) -> Any:
    """Head warm-up: what is the trunk's, of its gradient say, is 0 while `frozen`."""
    trunk = jax.tree.map(
        lambda u: jnp.where(frozen, jnp.zeros_like(u), u), updates["trunk"]
    )
    return {**updates, "trunk": trunk}
