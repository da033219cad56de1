"""The head pass on four devices: the same numbers, and each walks over its own rows."""

import pytest

from tests.four_devices import said_on_four

MANY = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from tests.wmtp_jax.test_unembed import assert_close, example, ours
from wmtp_jax import row_blocks, sharding, unembed
row_blocks.LARGEST_BLOCK = 16
assert len(jax.devices()) == 4
mesh = sharding.mesh_of(jax.devices())
for own in (False, True):
    arguments = example(own=own, kept=0.5)
    rows = NamedSharding(mesh, PartitionSpec(None, "data"))
    first = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    run = jax.jit(
        lambda *given: ours(*given, mesh=mesh),
        in_shardings=(rows, first, first, whole, whole if own else None),
    )
    assert_close(run(*arguments), ours(*arguments), arguments[2], 1e-5)
    text = run.lower(*arguments).compile().as_text()
    bodies = [x for x in text.split("\\n\\n") if "while/body" in x and "ENTRY" not in x]
    assert bodies and not any(" all-" in body for body in bodies)
    assert "all-gather" not in text  # of rows: each device has its own
row_blocks.LARGEST_BLOCK = 1024  # one block: the softmax of the scores is kept
states, targets, factor, shared, _ = example(kept=0.6)
scored_BL = np.random.default_rng(0).random(factor.shape[:2]) < 0.9

def total(states, shared, mesh=None):
    first = states[0], targets[..., 0], scored_BL, shared
    nll_BL, scored = unembed.score_rows(*first, mesh=mesh)
    assert scored is not None
    kept = (factor > 0).at[..., 0].set((factor[..., 0] > 0) & scored_BL)
    found = unembed.weighted_nll_heads(
        states, targets, kept, factor * kept, shared, None, scored=scored, mesh=mesh
    )
    return found[0], (nll_BL, *found)

def both(mesh=None):
    return jax.value_and_grad(lambda *given: total(*given, mesh), (0, 1), has_aux=True)

run = jax.jit(both(mesh), in_shardings=(rows, whole))
for a, b in zip(*map(jax.tree.leaves, (run(states, shared), both()(states, shared)))):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
text = run.lower(states, shared).compile().as_text()
assert "all-gather" not in text
print("same")
"""


@pytest.mark.slow
def test_four_devices_are_one():
    """Each walks over its own rows, and none waits for another inside the loop."""
    assert said_on_four(MANY) == "same"
