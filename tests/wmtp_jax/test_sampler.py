"""What may be drawn, found without sorting the whole vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shared.decoding.sampling import allowed
from wmtp_jax.decoding.sampler import LISTED, Controls, kept

V = 4 * LISTED
LIMITS = [
    (0, 1.0, 0.0),
    (0, 0.95, 0.0),
    (50, 0.9, 0.0),
    (0, 1.0, 0.1),
    (900, 0.99, 0.0),
]


def controls(limits) -> Controls:
    top_k, top_p, min_p = map(np.asarray, zip(*limits, strict=True))
    rows = len(limits)
    return Controls(
        temperature_R=jnp.ones(rows),
        top_k_R=jnp.asarray(top_k, jnp.int32),
        top_p_R=jnp.asarray(top_p, jnp.float32),
        min_p_R=jnp.asarray(min_p, jnp.float32),
        key_R2=jnp.zeros((rows, 2), jnp.uint32),
    )


@pytest.mark.parametrize("spread", [0.1, 4.0])  # all alike; a few that matter
def test_it_is_what_sorting_all_finds(spread):
    rows = [limits for limits in LIMITS for _ in range(2)]
    scaled_RV = np.random.default_rng(0).normal(0, spread, (len(rows), V))
    scaled_RV = scaled_RV.astype(np.float32)
    of = controls(rows)
    found = np.asarray(jax.jit(kept)(scaled_RV, of))
    limits = (of.top_k_R, of.top_p_R, of.min_p_R)
    right = allowed(scaled_RV.astype(np.float64), *map(np.asarray, limits))
    # At the edge of top_p rounding decides.
    assert (found != right).sum(1).max() <= 1
    assert (found[2:4].sum(1) > LISTED).all() == (spread < 1)


def test_a_row_is_as_alone_beside_one_that_needs_all(spread=4.0):
    rng = np.random.default_rng(1)
    peaked, flat = rng.normal(0, spread, (1, V)), rng.normal(0, 0.1, (1, V))
    both = np.concatenate([peaked, flat]).astype(np.float32)
    limits = (0, 0.95, 0.0)
    together = jax.jit(kept)(both, controls([limits] * 2))
    alone = [jax.jit(kept)(both[i : i + 1], controls([limits]))[0] for i in range(2)]
    np.testing.assert_array_equal(together, np.stack(alone))
    assert int(together[1].sum()) > LISTED > int(together[0].sum())


def test_the_largest_logits_are_no_sort_of_all():
    compiled = jax.jit(kept).lower(jnp.zeros((2, V)), controls([LIMITS[1]] * 2))
    text = compiled.compile().as_text()
    # One sort is left, for rows that need it.
    assert text.count(" sort(") == 1
    if jax.default_backend() == "cpu":
        assert 'custom_call_target="TopK"' in text
