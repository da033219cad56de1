"""Unembedding and nll of the rows that weigh something: exact, lean, on any device."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.cases import shorter, shorter_rows
from tests.small import plain_nll_heads
from wmtp_jax import row_blocks, unembed

K, B, L, D = 3, 4, 40, 8


def example(vocab=31, *, own=False, kept=0.7, offset=0.0, dtype="float32", seed=0):
    """States, targets, factors and unembeddings; a share of the rows has factor 0."""
    rng = np.random.default_rng(seed)
    states_KBLD = rng.normal(size=(K, B, L, D))
    states_KBLD[..., 0] = 1.0  # one constant feature lifts all logits by `offset`
    matrices = rng.normal(size=(K, vocab, D))
    matrices[..., 0] = offset
    factor_BLK = rng.gamma(2, 0.5, (B, L, K)) * (rng.random((B, L, K)) < kept)
    own_KVD = jnp.asarray(matrices[1:], "float32") if own else None
    return (
        jnp.asarray(states_KBLD, dtype),
        jnp.asarray(rng.integers(0, vocab, (B, L, K)), "int32"),
        jnp.asarray(factor_BLK, "float32"),
        jnp.asarray(matrices[0], "float32"),
        own_KVD,
    )


def ours(states, targets, factor, shared, own, mesh=None):
    """Sum, nll and the gradients of the sum."""

    def total(states, shared, own):
        return unembed.weighted_nll_heads(
            states, targets, factor > 0, factor, shared, own, mesh=mesh
        )

    which = (0, 1) if own is None else (0, 1, 2)
    return jax.value_and_grad(total, which, has_aux=True)(states, shared, own)


def plain(states, targets, factor, shared, own):
    def total(states, shared, own):
        nll_BLK = plain_nll_heads(states, targets, shared, own)
        return jnp.sum(factor * nll_BLK), nll_BLK

    which = (0, 1) if own is None else (0, 1, 2)
    return jax.value_and_grad(total, which, has_aux=True)(states, shared, own)


def assert_close(found, right, factor, rtol):
    (total, nll_BLK), gradients = found
    (expected, expected_BLK), right_gradients = right
    kept_BLK = np.asarray(factor) > 0
    np.testing.assert_allclose(total, expected, rtol=rtol)
    np.testing.assert_allclose(nll_BLK[kept_BLK], expected_BLK[kept_BLK], rtol=rtol)
    assert not np.asarray(nll_BLK)[~kept_BLK].any()
    for a, b in zip(gradients, right_gradients, strict=True):
        size = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, atol=10 * rtol * size)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.7, 1.0])
def test_sum_nll_and_gradients_are_those_of_the_plain_way(own, kept, monkeypatch):
    """For any number of kept rows, none included; blocks of 64 and of 16 rows."""
    monkeypatch.setattr(row_blocks, "LARGEST_BLOCK", 64)
    monkeypatch.setattr(row_blocks, "SMALLEST_BLOCK", 16)
    monkeypatch.setattr(row_blocks, "LEAST_BYTES", 1)
    arguments = example(own=own, kept=kept)
    factor = arguments[2]
    found = jax.jit(ours)(*arguments)
    assert_close(found, jax.jit(plain)(*arguments), factor, 1e-5)
    if kept == 0:
        assert all(not np.asarray(x).any() for x in jax.tree.leaves(found))


@pytest.mark.parametrize("own", shorter([False, True], [True]))
def test_a_large_vocabulary_far_below_0(own):
    arguments = example(50_257, own=own, offset=-80.0)
    assert_close(
        jax.jit(ours)(*arguments), jax.jit(plain)(*arguments), arguments[2], 2e-5
    )


def test_bfloat16_adds_up_in_float32():
    """Rounding of the states is what remains, however many blocks there are."""
    exact = example(257, dtype="bfloat16", kept=1.0)
    as_float32 = (exact[0].astype("float32"), *exact[1:3], exact[3].astype("bfloat16"))
    right = jax.jit(plain)(*as_float32[:3], as_float32[3].astype("float32"), None)
    errors = []
    for rows in (512, 16):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(row_blocks, "LARGEST_BLOCK", rows)
            patch.setattr(row_blocks, "SMALLEST_BLOCK", rows)
            (total, nll_BLK), (states, shared) = jax.jit(partial(ours))(*exact)
        assert nll_BLK.dtype == total.dtype == shared.dtype == jnp.float32
        assert states.dtype == jnp.bfloat16
        np.testing.assert_allclose(total, right[0][0], rtol=1e-4)
        d_VD = np.asarray(right[1][1])
        errors.append(np.linalg.norm(shared - d_VD) / np.linalg.norm(d_VD))
    assert errors[1] < 1.3 * errors[0] < 0.01


def test_nll_alone_is_the_same_and_cannot_be_differentiated():
    states, targets, factor, shared, own = example(own=True)
    kept = factor > 0
    nll_BLK = jax.jit(unembed.nll_heads)(states, targets, kept, shared, own)
    right_BLK = plain_nll_heads(states, targets, shared, own)
    np.testing.assert_allclose(nll_BLK, jnp.where(kept, right_BLK, 0), rtol=1e-5)
    first = jax.jit(unembed.nll_heads)(
        states[:1], targets[:, :, :1], kept[:, :, :1], shared, None
    )
    np.testing.assert_allclose(first[..., 0], nll_BLK[..., 0], rtol=1e-6)
    for which in (0, 1, 2):
        given = [states, shared, own]

        def total(x, which=which, given=given):
            given[which] = x
            states, shared, own = given
            return jnp.sum(unembed.nll_heads(states, targets, kept, shared, own))

        with pytest.raises(TypeError, match="must not be differentiated"):
            jax.grad(total)(given[which])


def test_only_the_sum_has_a_gradient_and_it_is_scaled():
    """By what follows it; a look at the nll adds nothing."""
    states, targets, factor, shared, own = example(own=True)

    def scaled(states, shared, own):
        total, nll_BLK = unembed.weighted_nll_heads(
            states, targets, factor > 0, factor, shared, own
        )
        return 2.5 * total + jnp.sum(nll_BLK**2)

    found = jax.jit(jax.grad(scaled, (0, 1, 2)))(states, shared, own)
    _, right = jax.jit(plain)(states, targets, factor, shared, own)
    for a, b in zip(found, right, strict=True):
        np.testing.assert_allclose(a, 2.5 * b, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("scoring", [False, True])
def test_what_is_left_out_may_be_anything(scoring):
    """NaN and infinities in rows without weight reach neither sum nor gradient."""
    states, targets, factor, shared, own = example(own=True, kept=0.5)
    left_out_BLK = jnp.asarray(factor == 0)
    bad_KBLD = jnp.where(jnp.moveaxis(left_out_BLK, 2, 0)[..., None], jnp.nan, states)
    bad_BLK = jnp.where(left_out_BLK, jnp.inf, factor)

    def total(states, shared, own):
        scored = None
        if scoring:  # also the rows that are dropped, whose softmax is then NaN
            everywhere_BL = jnp.ones((B, L), bool)
            _, scored = unembed.score_rows(
                states[0], targets[..., 0], everywhere_BL, shared
            )
        return unembed.weighted_nll_heads(
            states, targets, factor > 0, bad_BLK, shared, own, scored=scored
        )

    assert left_out_BLK[..., 0].any()
    found = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(bad_KBLD, shared, own)
    right = plain(states, targets, factor, shared, own)
    assert_close(found, right, factor, 1e-5)


def test_factors_are_constants():
    states, targets, factor, shared, own = example()
    kept = factor > 0

    def total(factor):
        return unembed.weighted_nll_heads(states, targets, kept, factor, shared, own)

    gradient, nll_BLK = jax.grad(total, has_aux=True)(factor)
    assert not np.asarray(gradient).any()
    # A factor of 0, say that of a whole head, leaves its nll to be looked at.
    _, same_BLK = total(0 * factor)
    np.testing.assert_array_equal(same_BLK, nll_BLK)


def test_no_rows_at_all():
    """R = 0: an empty batch."""
    states, targets, factor, shared, own = example()
    (total, nll_BLK), gradients = ours(
        states[:, :0], targets[:0], factor[:0], shared, own
    )
    assert float(total) == 0 and nll_BLK.shape == (0, L, K)
    assert not any(np.asarray(x).any() for x in gradients)


@pytest.mark.parametrize(
    "rows, vocab, width, sizes",
    [
        (0, 259, 64, (1, 1)),
        (1, 259, 64, (1, 1)),
        (100, 259, 64, (100, 100)),
        (130, 50_257, 64, (130, 65)),
        (1023, 50_257, 64, (1024, 256)),
        (8192, 259, 64, (256, 256)),
        (8192, 2048, 1024, (1024, 512)),
        (8192, 50_257, 768, (768, 192)),
        (8192, 262_144, 2048, (256, 64)),
        (8192, 10**8, 2048, (1, 1)),
    ],
)
def test_sizes_of_blocks(rows, vocab, width, sizes):
    assert row_blocks.block_sizes(rows, vocab, width) == sizes


def test_turns_are_those_that_the_kept_rows_need():
    """The loop counts at run time: one program, more or less work."""
    traces = []

    def count(kept_R):
        traces.append(1)

        def turn(index_N):
            return (jnp.ones(index_N.shape, int),), index_N.shape[0]

        return row_blocks.walk(kept_R, 0, (64, 16), turn, (jnp.zeros(256, int),), 0)

    jitted = jax.jit(count)
    for kept, computed in ((0, 0), (1, 16), (48, 48), (49, 64), (64, 64), (70, 80),
                           (128, 128), (200, 208), (256, 256)):  # fmt: skip
        mask_R = np.zeros(256, bool)
        mask_R[np.random.default_rng(kept).permutation(256)[:kept]] = True
        (seen_R,), rows = jitted(mask_R)
        np.testing.assert_array_equal(seen_R, mask_R)
        assert int(rows) == computed
    assert len(traces) == 1


DTYPES = [("float32", 1e-5), ("bfloat16", 2e-2)]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("heads", [1, K])
@pytest.mark.parametrize("dtype, rtol", shorter_rows(DTYPES, DTYPES[:1]))
def test_logits_of_the_scores_are_used_again(own, heads, dtype, rtol):
    """Head 0's rows are scored, some are dropped, and the others' gradient is right."""
    states, targets, factor, shared, _ = example(kept=1.0, dtype=dtype, offset=-80.0)
    shared = shared.astype(dtype).astype("float32")
    states, targets, factor = states[:heads], targets[..., :heads], factor[..., :heads]
    own_KVD = 2 * jnp.stack([shared] * (heads - 1)) if own and heads > 1 else None
    scored_BL = jnp.asarray(np.random.default_rng(1).random((B, L)) < 0.8)
    dropped_BL = jnp.asarray(np.random.default_rng(2).random((B, L)) < 0.4)
    factor = factor.at[..., 0].multiply(scored_BL & ~dropped_BL)

    def total(states, shared, own):
        nll_BL, scored = unembed.score_rows(
            states[0], targets[..., 0], scored_BL, shared
        )
        assert scored is not None
        found = unembed.weighted_nll_heads(
            states, targets, factor > 0, factor, shared, own, scored=scored
        )
        return found[0], (found[1], nll_BL)

    which = (0, 1) if own_KVD is None else (0, 1, 2)
    (found, (nll_BLK, nll_BL)), gradients = jax.jit(
        jax.value_and_grad(total, which, has_aux=True)
    )(states, shared, own_KVD)
    right = jax.jit(plain)(states, targets, factor, shared, own_KVD)
    assert_close(((found, nll_BLK), gradients), right, factor, rtol)
    right_BL = jnp.where(scored_BL, right[0][1][..., 0], 0)
    np.testing.assert_allclose(nll_BL, right_BL, rtol=rtol)


def test_logits_that_do_not_fit_one_block_are_not_kept(monkeypatch):
    monkeypatch.setattr(row_blocks, "LARGEST_BLOCK", 64)
    states, targets, factor, shared, _ = example()
    nll_BL, scored = unembed.score_rows(
        states[0], targets[..., 0], factor[..., 0] > 0, shared
    )
    assert scored is None
    right_BL = plain_nll_heads(states, targets, shared, None)[..., 0]
    right_BL = jnp.where(factor[..., 0] > 0, right_BL, 0)
    np.testing.assert_allclose(nll_BL, right_BL, rtol=1e-5)


def temporary_bytes(function, rows, vocab):
    shapes = (
        jax.ShapeDtypeStruct((1, 1, rows, D), jnp.float32),
        jax.ShapeDtypeStruct((1, rows, 1), jnp.int32),
        jax.ShapeDtypeStruct((1, rows, 1), jnp.float32),
        jax.ShapeDtypeStruct((vocab, D), jnp.float32),
    )
    compiled = jax.jit(partial(function, own=None)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_no_logits_outlive_their_block():
    rows, vocab = 8192, 2000
    whole = rows * vocab * 4
    assert temporary_bytes(ours, rows, vocab) < 0.06 * whole  # blocks of 256 rows
    assert temporary_bytes(plain, rows, vocab) >= whole  # which keeps them
