"""A few steps of training on a mesh, for the tests that hold meshes against one device.

To be imported where JAX sees several devices (`tests/four_devices.py`).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from shared.config.fields import Config, DataConfig, OptimizerConfig, TrainConfig
from tests.small import drawn_params, micro_batches, small_batch, small_config
from wmtp_jax import layout, optimizer, sharding, step
from wmtp_jax.state import TrainState, init_state

ROWS = [[9, 4], [2], [12], [5, 5, 5], [], [16], [3, 3], [7, 8]]  # uneven, one empty
Sizes = tuple[int, int, int]  # data, fsdp, tensor


def factorisations(count: int) -> Iterator[Sizes]:
    """All ways to share out so many devices."""
    for data in range(1, count + 1):
        for fsdp in range(1, count + 1):
            if count % (data * fsdp) == 0:
                yield data, fsdp, count // (data * fsdp)


def mesh_of(sizes: Sizes) -> Any:
    devices = jax.devices()[: int(np.prod(sizes))]
    return sharding.mesh_of(devices, fsdp=sizes[1], tensor=sizes[2])


def config(algo: str, **changes: Any) -> Config:
    """Where a small difference of a gradient stays one of the update, too."""
    accumulation = changes.pop("accumulation", 1)
    return small_config(
        algo,
        data=DataConfig(max_length=16, batch_size=8 // accumulation),
        train=TrainConfig(accumulation=accumulation),
        optimizer=OptimizerConfig(lr=1e-2, epsilon=1e-3),
        **changes,
    )


class Run:
    """State, step and evaluation of a run on a mesh, from drawn parameters."""

    def __init__(self, cfg: Config, sizes: Sizes) -> None:
        self.cfg, self.mesh = cfg, mesh_of(sizes)
        tx = optimizer.make_optimizer(cfg, 5)
        made, _ = step.make_train_step(cfg, tx, 5, self.mesh)
        params = drawn_params(cfg)
        start = jax.eval_shape(lambda: init_state(cfg, params, tx))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), start.opt_state)
        start = replace(
            start,
            step=np.zeros((), np.int32),
            params=params,
            opt_state=zeros,
            key=jax.random.key(1),
        )
        self.state: TrainState = jax.device_put(start, layout.kept(self.mesh, start))
        self.evaluate = step.make_eval_step(cfg, self.mesh)
        batch = small_batch(8, lengths=ROWS, vocab=cfg.model.vocab_size)
        self.rows = jax.device_get(batch)
        self.batches = jax.device_get(micro_batches(batch, cfg.train.accumulation))
        self.step = made.lower(self.state, self.batches).compile()

    def train(self, steps: int = 2) -> dict[str, float]:
        """So many steps: everything that is found on the way."""
        found: dict[str, float] = {}
        for number in range(steps):
            self.state, metrics = self.step(self.state, self._placed())
            found |= {f"{name} {number}": float(x) for name, x in metrics.items()}
        return found

    def _placed(self) -> Any:
        rows = sharding.split_rows(self.mesh, micro_batches=True)
        return jax.device_put(self.batches, rows)

    def arrays(self) -> list[np.ndarray]:
        """Parameters and moments."""
        kept = (self.state.params, self.state.opt_state)
        return [np.asarray(x) for x in jax.tree.leaves(kept)]

    def evaluated(self) -> list[np.ndarray]:
        """What an evaluation says of each row."""
        return [np.asarray(self.evaluate(self.state.params, self.rows)["nll_BLK"])]


Outcome = tuple[dict[str, float], list[np.ndarray]]


def outcome(cfg: Config, sizes: Sizes) -> Outcome:
    run = Run(cfg, sizes)
    return run.train(), run.arrays() + run.evaluated()


def difference(cfg: Config, sizes: Sizes, one: Outcome | None = None) -> float:
    """Between a mesh and one device."""
    return between(outcome(cfg, sizes), one or outcome(cfg, (1, 1, 1)))


def between(found: Outcome, right: Outcome) -> float:
    """The largest difference of numbers, relative to 1 + the right ones."""
    assert found[0].keys() == right[0].keys()
    pairs = [(found[0][name], x) for name, x in right[0].items()]
    pairs += zip(found[1], right[1], strict=True)
    worst = 0.0
    for x, y in pairs:
        a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert a.shape == b.shape
        apart = np.max(np.abs(a - b) / (1 + np.abs(b)), initial=0)
        assert np.isfinite(apart)
        worst = max(worst, float(apart))
    return worst
