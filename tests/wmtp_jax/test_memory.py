"""What a run holds: its state once, one step at a time, nothing of earlier parts."""

import subprocess
import sys

import jax
import pytest

from shared.config.layers import load_config
from shared.run.loop import Loop
from tests import trained
from tests.small import drawn_params, micro_batches, small_batch, small_config
from wmtp_jax import optimizer, sharding, step, train, training
from wmtp_jax.state import abstract_state, init_state

# A product that takes a while is there when the call returns.
ONE_BY_ONE = """
import jax, jax.numpy as jnp
from tests.small import small_config
from wmtp_jax import sharding
sharding.make_mesh(small_config())
x = jnp.ones((1500, 1500))
products = jax.jit(lambda x: x @ x @ x @ x)
products(x).block_until_ready()
print(all([products(x).is_ready() for _ in range(3)]))
"""


def size(tree):
    """Bytes of its arrays; a key is told by its data."""
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_a_step_reuses_the_whole_state():
    """All that a step is given of a state is where it writes the new one."""
    cfg = small_config("critic")
    tx = optimizer.make_optimizer(cfg, 10)
    jitted, _ = step.make_train_step(cfg, tx, 10, sharding.make_mesh(cfg))
    state = init_state(cfg, drawn_params(cfg), tx)
    compiled = jitted.lower(state, micro_batches(small_batch(), 1)).compile()
    assert compiled.memory_analysis().alias_size_in_bytes == size(state)
    new_state, _ = compiled(state, micro_batches(small_batch(), 1))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    assert size(new_state) == size(state)


def test_on_a_cpu_a_call_returns_when_it_is_computed():
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True"]


@pytest.mark.slow
def test_while_a_run_trains_it_holds_its_state_alone(tmp_path, monkeypatch):
    """Neither the reference it has trained, nor what stage 1 needed, nor a copy."""
    before, seen = {id(x) for x in jax.live_arrays()}, []

    class Watched(Loop):
        def __init__(self, *given, **known):
            assert known["asynchronous"] is False
            super().__init__(*given, **known)

        def log(self, number, metrics, batches):
            own = {id(x) for x in jax.tree.leaves(metrics)} | before
            held = [x for x in jax.live_arrays() if id(x) not in own]
            seen.append(sum(x.nbytes for x in held))
            super().log(number, metrics, batches)

    monkeypatch.setattr(training, "Loop", Watched)
    folder = trained.run(train, tmp_path, "run", "--algo", "critic")
    cfg = load_config(folder / "config.yaml")
    state = abstract_state(cfg, optimizer.make_optimizer(cfg, 1))
    needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert len(seen) == trained.STEPS
    assert needed <= min(seen) and max(seen) < 1.1 * needed  # results of evaluation
